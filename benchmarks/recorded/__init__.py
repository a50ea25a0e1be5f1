"""Recordings of networks and comparisons with them. `recording.py` describes the layout."""

"""Recordings of networks, and how far ours is from them; `recording.py` tells the layout."""

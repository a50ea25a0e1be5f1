"""Recordings of networks, and how far ours is from them; the layout is told in docs/recordings.md."""

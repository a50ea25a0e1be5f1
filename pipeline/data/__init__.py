"""Data sets as files: readers of annotation formats, image files, and partitioning."""

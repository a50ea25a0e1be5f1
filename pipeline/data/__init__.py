"""Reads datasets from files: annotation formats, images, and partitioning."""

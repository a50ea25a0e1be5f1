"""Reads data sets from files: annotation formats, images, and partitioning."""

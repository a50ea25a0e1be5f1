"""Finds the boxes of unannotated images, with any of six kinds of detectors."""

"""Finds the boxes of unannotated images, with any of five kinds of detectors."""

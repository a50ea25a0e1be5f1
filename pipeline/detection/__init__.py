"""Finds the boxes of images that no one annotated, with any of three kinds of detectors."""

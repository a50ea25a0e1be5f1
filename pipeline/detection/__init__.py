"""Finds the boxes of images that no one annotated, with any of five kinds of detectors."""

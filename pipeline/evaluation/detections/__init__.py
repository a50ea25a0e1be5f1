"""Detections files from any source: their content, their faults, and how ours are written."""

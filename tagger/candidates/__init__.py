"""Builds candidate pairs from triplets and boxes, or from other sources."""

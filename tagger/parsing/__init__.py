"""Parses captions into the triplets that they state."""

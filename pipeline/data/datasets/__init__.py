"""Readers of public detection and relation formats: annotation files in, one record an image out."""

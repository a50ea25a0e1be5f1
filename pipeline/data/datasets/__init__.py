"""Readers of public detection and relation formats. They turn annotation files into one record per image."""

"""Locates image files in folders, tars and at URLs, and opens them safely."""

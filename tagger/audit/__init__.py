"""Measures the quality of labels where the truth is known."""

"""Chooses the labels to keep, counts them per stage, and audits them against ground-truth relations."""

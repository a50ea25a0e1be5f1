"""Engines execute a stage's items in workers that open the stage once."""

"""One file per stage: its settings, and its calls of the plain functions that do the work."""

"""One file per stage: its settings, and how it calls the plain functions that do the work."""

"""The small captioner of made scenes: its model, what it learns from, and how it is measured."""

"""The small captioner of synthetic scenes: its model, training data and evaluation."""

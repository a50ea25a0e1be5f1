"""Parses captions into the triplets that they state."""

from pathlib import Path

LAYER = Path(__file__).parent / "layer.npz"
"""The weights of the learned layer."""

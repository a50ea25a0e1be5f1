"""Captioners: one protocol; BLIP by transformers, and captions that were recorded elsewhere."""

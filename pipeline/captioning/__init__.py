"""Captioners behind one protocol: BLIP in transformers or LAVIS, and captions recorded elsewhere."""

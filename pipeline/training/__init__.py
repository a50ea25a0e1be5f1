"""Trains the tagger and the pre-training network with one loop, in one process or many, resumable at every step."""

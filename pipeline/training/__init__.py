"""The one training loop: tagger and pre-training, in one process or many, resumable at every step."""

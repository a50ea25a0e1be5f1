"""Reads the authors' checkpoints safely, infers their network, and moves values from theirs to ours and back."""

"""Reads the authors' checkpoints safely, infers their network, and moves their values into ours."""

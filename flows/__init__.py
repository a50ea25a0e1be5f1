"""Prefect runs and displays the chain: one flow per stage, and one for all. The store alone decides what is done."""

"""Metrics of interaction detection, as the public evaluators compute them."""

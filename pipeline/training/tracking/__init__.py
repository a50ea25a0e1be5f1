"""Follows a training run: trackers that show its values, its throughput, and an alarm when it diverges."""

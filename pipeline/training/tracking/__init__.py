"""Follows a training: trackers that show its values, its throughput, and an alarm when it diverges."""

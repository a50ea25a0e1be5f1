"""Turns candidate pairs into scored, calibrated relations."""

"""From candidate pairs to scored, calibrated relations."""

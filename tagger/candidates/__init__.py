"""From triplets and boxes to candidate pairs, and candidates from elsewhere."""

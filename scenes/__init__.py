"""A synthetic world whose pictures, boxes, captions and known relations are deterministic by (seed, index)."""

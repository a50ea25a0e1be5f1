"""A synthetic world whose images, boxes, captions and known relations are deterministic by (seed, index)."""

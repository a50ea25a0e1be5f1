"""A made world with known relations: pictures, boxes, captions and planted truth, deterministic by (seed, index)."""

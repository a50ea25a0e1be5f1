"""Tables of words that name the categories of COCO and Objects365, and of phrases that only seem to name them."""

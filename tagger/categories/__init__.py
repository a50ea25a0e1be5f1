"""Which words name the categories of COCO and Objects365, and which only look so."""

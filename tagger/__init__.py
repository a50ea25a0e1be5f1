"""From captions to relation labels, as plain functions: parsing, matching, candidates, labelling, audit."""

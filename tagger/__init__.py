"""Turns captions into relation labels with plain functions: parsing, matching, candidates, labelling, audit."""

"""PyTorch modules of RLIPv2: ParSeDA, ParSeD and the Relation Tagger. Knows nothing of files other than weights."""

"""PyTorch modules of RLIPv2: ParSeDA, ParSeD and the Relation Tagger. They read no files but weights and tokenizers."""

"""PyTorch modules of RLIPv2: ParSeDA, ParSeD and the Relation Tagger. They read only weight and tokenizer files."""

"""Streams samples of shards in an order that any number of ranks and loader processes share, resumed anywhere."""

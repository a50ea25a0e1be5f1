"""The artifact store: keys, manifests, atomic commits, table schemas, runs, tar shards."""

"""The `rlip` command: `app` declares the commands, the other modules carry them out."""

"""The `rlip` command: `app` declares the subcommands, the other modules implement them."""

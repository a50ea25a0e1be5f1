"""What the `rlip` commands do once they are parsed."""

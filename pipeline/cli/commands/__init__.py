"""Declarations of the `rlip` commands, by subject. A command imports what carries it out only once it is called."""

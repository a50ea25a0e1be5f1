"""Subpackages from `cli` down to `runtime`; each imports only those below it (docs/design.md, Packages)."""

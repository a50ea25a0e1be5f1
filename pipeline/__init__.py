"""Rooms from `cli` down to `runtime`; a room imports only the rooms below it (docs/design.md, The house)."""

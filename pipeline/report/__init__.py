"""What people read when a run is over: figures, tables for the terminal, and the static report."""

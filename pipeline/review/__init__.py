"""What people look at when a run is over: its figures, the static report, the tables on the terminal."""

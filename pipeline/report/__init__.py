"""Presents a finished run: figures, tables for the terminal, and the static report."""

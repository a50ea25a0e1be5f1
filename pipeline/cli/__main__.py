"""Runs the `rlip` command as `python -m pipeline.cli`, for environments where `rlip` is not on the path."""

from pipeline.cli.app import app

if __name__ == "__main__":
    app(prog_name="rlip")

"""`python -m pipeline.cli`: the `rlip` command where it is not on the path."""

from pipeline.cli.app import app

if __name__ == "__main__":
    app(prog_name="rlip")

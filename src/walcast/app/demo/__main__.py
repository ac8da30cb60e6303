"""`python -m walcast.app.demo [--check]`: the same as `walcast demo`."""

from walcast.cli.main import cli

if __name__ == "__main__":
    import sys

    cli(["demo", *sys.argv[1:]], prog_name="walcast")

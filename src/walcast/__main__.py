"""`python -m walcast`."""

from walcast.cli import main

main()

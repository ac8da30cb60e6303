"""python -m social: see stage.py."""

import sys

from social.stage import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

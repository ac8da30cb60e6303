"""`python -m walcast.app.reference FOLDER`."""

import sys
from pathlib import Path

from walcast.app.reference import write

if len(sys.argv) != 2:
    sys.exit("usage: python -m walcast.app.reference FOLDER")
write(Path(sys.argv[1]))

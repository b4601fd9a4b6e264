"""Where `make run` and `make up` print to."""

import sys

from rich.console import Console

# Tables are as wide as the terminal; in a file or a pipe as wide as they need.
out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)

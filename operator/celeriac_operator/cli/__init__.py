"""The `celeriac-operator` command: a file for each command; `root` holds what they share."""

import sys

from celeriac_operator.cli import crd, doctor, explain, importing, run
from celeriac_operator.cli.explain import words
from celeriac_operator.cli.root import cli


def main() -> None:
    """The console script. Ends with a sentence where the extra that all commands stand on is not installed."""
    try:
        cli()
    except ModuleNotFoundError as error:
        if (error.name or "celeriac").startswith("celeriac"):
            raise
        sys.exit(f"Error: {error}. Install what the operator needs with: pip install 'celeriac[operator]'")


__all__ = ["cli", "crd", "doctor", "explain", "importing", "main", "run", "words"]

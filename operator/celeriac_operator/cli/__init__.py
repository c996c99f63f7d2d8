"""The `celeriac-operator` command: a file for each command; `root` holds what they share."""

from celeriac_operator.cli import crd, doctor, explain, importing, run
from celeriac_operator.cli.explain import words
from celeriac_operator.cli.root import cli


def main() -> None:
    """The console script."""
    cli()


__all__ = ["cli", "crd", "doctor", "explain", "importing", "main", "run", "words"]

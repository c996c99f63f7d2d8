"""What a test does without a program that it needs: one rule for all of them."""

import os
import shutil
from typing import NoReturn

import pytest


def give_up(reason: str) -> NoReturn:
    """Skip at home, fail in CI: there a missing program means that something went untested."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; CI=true", pytrace=False)
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    """The path of a program; gives up, naming Debian's package, when it is not there."""
    path = shutil.which(name)
    if path is None:
        give_up(f"{name} is not on PATH (Debian: apt-get install {package})")
    return path

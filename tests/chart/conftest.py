"""Fixtures of the charts' tests: Prometheus's programs, skipped at home when missing and failed under CI=true."""

import os
import shutil

import pytest


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not on PATH (Debian: apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI=true", pytrace=False)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def promtool() -> str:
    """Path of promtool."""
    return _program("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    """Path of prometheus."""
    return _program("prometheus")

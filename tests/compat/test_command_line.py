"""Celery's own commands and flags against ours: each is there, or is refused with what to do instead."""

import json
import re
import subprocess
from typing import Any

import click
import pytest
from click.testing import CliRunner
from compat_env import celery_python

from celeriac.cli import celerys, main

#: name of a command -> [[its names, takes a value]] of each of its options; "" is `celery` itself.
ASK = """
import json
import click
from celery.bin.celery import celery

def options(command):
    return [[[*p.opts, *p.secondary_opts], not p.is_flag] for p in command.params if isinstance(p, click.Option)]

context = click.Context(celery)
commands = {name: celery.get_command(context, name) for name in celery.list_commands(context)}
print(json.dumps({name: options(command) for name, command in {"": celery, **commands}.items()}))
"""
#: Refused: what is to be done instead stands in the error.
REFUSED = {
    "": {"--loader", "--config", "--skip-checks"},
    "worker": {"-D", "--detach", "--uid", "--gid", "--umask", "--executable"},
    "beat": {"--detach", "--uid", "--gid", "--umask", "--executable", "-n", "--hostname", "--enable-remote-control"},
}
#: What is said to flags that do not take any word.
VALUES = {
    "--eta": "2030-01-31T12:00:00Z",
    "--pool-start-method": "fork",
    "--workdir": ".",
    "--scheduler": "celery.beat:PersistentScheduler",
}
VALUES["-S"] = VALUES["--scheduler"]


@pytest.fixture(scope="module")
def celerys_options(_compat_env: None) -> dict[str, list[tuple[list[str], bool]]]:
    asked = subprocess.run([celery_python(), "-W", "ignore", "-c", ASK], check=True, capture_output=True, text=True)
    found: dict[str, list[tuple[list[str], bool]]] = json.loads(asked.stdout)
    return found


def ours(name: str) -> dict[str, bool]:
    """Flag -> whether it takes a value."""
    command: Any = main.get_command(click.Context(main), name) if name else main
    assert command is not None, name
    return {
        flag: not option.is_flag
        for option in command.params if isinstance(option, click.Option)
        for flag in (*option.opts, *option.secondary_opts)
    }  # fmt: skip


def test_each_command_of_celerys_is_there_or_says_what_to_do_instead(celerys_options: dict[str, Any]) -> None:
    there = {name for name in celerys_options if name in main.list_commands(click.Context(main))}

    assert set(celerys_options) - there - {""} == set(celerys.COMMANDS)
    for name in celerys.COMMANDS:
        result = CliRunner().invoke(main, [name, "-x", "--dump", "start", "--help"])
        assert (result.exit_code, celerys.COMMANDS[name] in result.output) == (2, True)


def test_each_flag_of_celerys_is_there_and_takes_a_value_if_celerys_does(celerys_options: dict[str, Any]) -> None:
    wrong = [
        (name, flag)
        for name, options in celerys_options.items()
        if name not in celerys.COMMANDS
        for flags, takes_value in options
        for flag in flags
        if ours(name).get(flag) != takes_value
    ]

    assert sum(map(len, celerys_options.values())) > 90
    assert wrong == []


def test_the_flags_that_are_refused_are_these_and_each_says_what_to_do_instead(celerys_options: dict[str, Any]) -> None:
    refused: dict[str, set[str]] = {}
    for name, options in celerys_options.items():
        for flags, takes_value in options:
            for flag in flags:
                if name not in celerys.COMMANDS and flag != "--help":
                    said = parsing(name, [flag, VALUES.get(flag, "1")] if takes_value else [flag])
                    if said:
                        assert re.search(rf"(^|, ){flag}(, -[-a-z]+)*: .{{20}}", said), said
                        refused.setdefault(name, set()).add(flag)

    assert refused == REFUSED


def parsing(name: str, line: list[str]) -> str:
    """What is wrong with that line; empty: it would run."""
    command: Any = main.get_command(click.Context(main), name) if name else main
    required = ["x" for part in command.params if isinstance(part, click.Argument) and part.required]
    try:
        command.make_context(name, [*line, *required] if name else [*line, "report"])
    except click.UsageError as error:
        return error.format_message()
    except click.exceptions.Exit:  # --version
        pass
    return ""

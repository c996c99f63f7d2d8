"""docs/settings.md, made from the table in `celeriac.config`: run this file to write it; a house test compares."""

from pathlib import Path
from typing import Any

from celeriac.config import SETTINGS, UNSUPPORTED, Effect, Setting

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"

HEAD = """\
# Settings

Set them where you like: `Celeriac(..., task_acks_late=True)`, `app.conf.task_acks_late = True`,
`app.config_from_object("module")`, or the environment: `CELERIAC_TASK_ACKS_LATE=1` (`CELERIAC_` and the name in upper
case). Celery's old upper-case names are accepted in place of today's; two names of one setting must not contradict each other.

A name that looks like a setting and is none stops a worker at its start, and a client at its first call, with the nearest right
name; so does a wrong value, at once. A project's own values may be kept in `app.conf` under other names. `celeriac report`
shows what is set, without secrets.

There are two profiles. `celery`, the default for code, behaves as Celery's users expect. `kubernetes`, which the
images, the charts and `celeriac up` set by `CELERIAC_PROFILE=kubernetes`, is made for pods that come and go; its column
is empty where the default is the same.

Durations are seconds.

| setting | default | in `kubernetes` | what it does | Celery's old names |
|---|---|---|---|---|
"""

REFUSED = """
## Refused

Celery's settings that would be missed if they were passed over: setting one is an error.

| setting | why | Celery's old names |
|---|---|---|
"""

IDLE = """
## Without effect

Celery's settings that are accepted, so that code which sets them runs, and do nothing here. A worker says so once, at its start,
of those that are set.

| setting | why, and what there is instead | Celery's old names |
|---|---|---|
"""


def page() -> str:
    """The text that docs/settings.md has to have."""
    rows = (
        (
            f"`{setting.name}`",
            _shown(setting.default),
            "" if setting.default_in("kubernetes") == setting.default else _shown(setting.default_in("kubernetes")),
            setting.help.replace("|", "\\|"),
            ", ".join(f"`{name}`" for name in setting.old),
        )
        for setting in SETTINGS
    )
    text = HEAD + "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in rows)
    refused = [setting for setting in UNSUPPORTED if setting.effect is Effect.REFUSED]
    idle = [setting for setting in UNSUPPORTED if setting.effect is Effect.NONE]
    return text + REFUSED + _reasons(refused) + IDLE + _reasons(idle)


def _reasons(settings: list[Setting]) -> str:
    """Rows of those that do nothing; neighbours with one reason share a row."""
    rows: list[tuple[list[str], list[str], str]] = []
    for setting in settings:
        if not rows or rows[-1][2] != setting.help:
            rows.append(([], [], setting.help))
        rows[-1][0].append(f"`{setting.name}`")
        rows[-1][1].extend(f"`{name}`" for name in setting.old)
    return "".join(
        f"| {', '.join(names)} | {why} | {', '.join(old)} |\n".replace("|  |", "| |") for names, old, why in rows
    )


def _shown(default: Any) -> str:
    """A default as a reader wants it; None is unset."""
    if default is None:
        return "unset"
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{default}`".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())

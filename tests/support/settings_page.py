"""docs/settings.md, made from the table in `celeriac.config`: run this file to write it; a house test compares."""

from pathlib import Path
from typing import Any

from celeriac.config import SETTINGS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"

HEAD = """\
# Settings

Set them where you like: `Celeriac(..., task_acks_late=True)`, `app.conf.task_acks_late = True`,
`app.config_from_object("module")`, or the environment: `CELERIAC_TASK_ACKS_LATE=1` (`CELERIAC_` and the name in upper
case). Celery's old upper-case names are accepted in place of today's.

There are two profiles. `celery`, the default for code, behaves as Celery's users expect. `kubernetes`, which the
images, the charts and `celeriac up` set by `CELERIAC_PROFILE=kubernetes`, is made for pods that come and go; its column
is empty where the default is the same.

Durations are seconds.

| setting | default | in `kubernetes` | what it does | Celery's old names |
|---|---|---|---|---|
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
    return HEAD + "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in rows)


def _shown(default: Any) -> str:
    """A default as a reader wants it; None is unset."""
    if default is None:
        return "unset"
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{default}`".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())

"""Celery's own table of settings against ours: none is missing, and each old name means the same."""

import json
import subprocess
from typing import Any

import pytest
from compat_env import celery_python

from celeriac import Celeriac
from celeriac.config import BY_NAME
from celeriac.config.names import setting_of

ASK = """
import json
from celery.app import defaults
print(json.dumps({"new": sorted(defaults.SETTING_KEYS), "old": defaults._TO_NEW_KEY}))
"""


@pytest.fixture(scope="module")
def celerys(_compat_env: None) -> Any:
    """{new: its settings' names, old: old name -> new name}."""
    asked = subprocess.run([celery_python(), "-c", ASK], check=True, capture_output=True, text=True)
    return json.loads(asked.stdout)


def test_each_of_celerys_settings_is_honoured_or_has_a_reason(celerys: Any) -> None:
    assert len(celerys["new"]) > 200
    assert [name for name in celerys["new"] if name not in BY_NAME] == []


def test_each_of_celerys_old_names_means_the_same_setting(celerys: Any) -> None:
    assert {old: new for old, new in celerys["old"].items() if getattr(setting_of(old), "name", None) != new} == {}


def test_a_configuration_of_celerys_defaults_is_accepted(celerys: Any) -> None:
    app = Celeriac("shop", set_as_current=False)
    named = subprocess.run(
        [celery_python(), "-c", "import json; from celery.app import defaults; print(json.dumps(defaults.DEFAULTS, default=str))"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip

    app.conf.update({name: value for name, value in json.loads(named.stdout).items() if name != "result_expires"})

    app.conf.check()
    assert app.conf.remarks() == []

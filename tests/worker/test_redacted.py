"""No password of a URL is shown, however it is written."""

import traceback

import pytest

from celeriac import Celeriac
from celeriac.broker.connection import redacted
from celeriac.exceptions import ImproperlyConfigured


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host:6379/0", "redis://:**@host:6379/0"),
        ("amqp://user:pw@host//", "amqp://user:**@host//"),
        ("amqp://user@host//", "amqp://user@host//"),
        ("redis://:p@ssw0rd@host/0", "redis://:**@host/0"),
        ("redis://:p:w@host/0", "redis://:**@host/0"),
        ("amqp://user:p/w@host//", "amqp://user:**@host//"),
        ("redis://:p?w#/@host/0", "redis://:**@host/0"),
        ("redis://h1:6379/0;redis://:p/w@h2:6379/0", "redis://h1:6379/0;redis://:**@h2:6379/0"),
        ("sentinel://:a@h1:26379;sentinel://:b@h2:26379", "sentinel://:**@h1:26379;sentinel://:**@h2:26379"),
        ("amqp://u:a@h1,amqp://u:b@h2", "amqp://u:**@h1,amqp://u:**@h2"),
        ("rediss://host/0?password=pw&ssl_cert_reqs=none", "rediss://host/0?password=**&ssl_cert_reqs=none"),
        (
            "cannot reach redis://:pw@host/0 (timeout) nor amqp://u:x@y/z",
            "cannot reach redis://:**@host/0 (timeout) nor amqp://u:**@y/z",
        ),
        ("mail me@example.org at 10:30", "mail me@example.org at 10:30"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize("url", ["amqp://u:SEC/RET@localhost//", "redis://:SEC/RET@localhost/0", "redis://:SEC#RET@localhost/0"])  # fmt: skip
def test_a_password_that_breaks_its_url_is_not_shown_by_the_error(url: str) -> None:
    app = Celeriac("x", broker=url, set_as_current=False)

    with pytest.raises(ImproperlyConfigured, match="%2F") as caught:
        app.send_task("add")

    assert "SEC" not in "".join(traceback.format_exception(caught.value))

"""No password of a URL is shown, however it is written."""

import pytest

from celeriac.broker.connection import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host:6379/0", "redis://:**@host:6379/0"),
        ("amqp://user:pw@host//", "amqp://user:**@host//"),
        ("amqp://user@host//", "amqp://user@host//"),
        ("redis://:p@ssw0rd@host/0", "redis://:**@host/0"),
        ("redis://:p:w@host/0", "redis://:**@host/0"),
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

"""Signed messages: what is run, what is a dead letter and why, and what is refused before anything is sent."""

import base64
import json
import pickle
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import identity
from turning import TurningWorker

from celeriac import Celeriac, chain
from celeriac.broker.codec import JSON, SIGNED, Encoded
from celeriac.broker.deadletters import dead_letters
from celeriac.broker.signing import Signing, unregister
from celeriac.exceptions import EncodeError, ImproperlyConfigured, UntrustedMessage
from celeriac.wire.message import TaskMessage

#: The memory broker is the process's, and other tests leave their dead letters in it.
QUEUE = f"signed-{uuid.uuid4()}"
BETWEEN = b"\x00\x01"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    unregister()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "trusted"


@pytest.fixture
def files(tmp_path: Path, store: Path) -> dict[str, str]:
    ann = identity(tmp_path, "ann", store=store)
    return {"key": str(ann.key), "certificate": str(ann.certificate), "store": str(store)}


def signing_of(tmp_path: Path, name: str, store: Path, **options: Any) -> Signing:
    who = identity(tmp_path, name, **options)
    return Signing(key=str(who.key), certificate=str(who.certificate), store=str(store))


def make(files: dict[str, str], **settings: Any) -> Celeriac:
    given = {
        "task_serializer": "auth",
        "accept_content": ["auth"],
        "task_acks_late": True,
        "task_default_queue": QUEUE,
        **settings,
    }
    app = Celeriac("shop", broker="memory://", backend="cache+memory://", set_as_current=False, **given)
    app.conf.update(
        security_key=files["key"], security_certificate=files["certificate"], security_cert_store=files["store"]
    )
    return app


@pytest.fixture
def app(files: dict[str, str]) -> Iterator[Celeriac]:
    app = make(files)
    app.setup_security()
    yield app
    app.close()


def test_a_signed_call_runs_and_so_does_what_follows_it(app: Celeriac) -> None:
    add = app.task(lambda x, y: x + y, name="add")
    worker = TurningWorker(app, queue=QUEUE)

    assert worker.until_ready(add.delay(2, 3)).get(timeout=1) == 5
    assert worker.until_ready(chain(add.s(1, 1), add.s(3)).apply_async()).get(timeout=1) == 5
    worker.close()


def test_a_signed_call_is_retried(app: Celeriac) -> None:
    @app.task(name="again", bind=True)
    def again(self: Any) -> int:
        if not self.request.retries:
            self.retry(countdown=0)
        return int(self.request.retries)

    worker = TurningWorker(app, queue=QUEUE)

    assert worker.until_ready(again.delay()).get(timeout=1) == 1
    worker.close()


def tampered(payload: str) -> str:
    return base64.b64encode(base64.b64decode(payload).replace(b"good", b"evil")).decode()


def relabelled(payload: str) -> str:
    """The content type is not signed, in Celery's form: another one must not choose how the body is read."""
    return base64.b64encode(
        base64.b64decode(payload).replace(b"application/json", b"application/x-python-serialize")
    ).decode()


def _signed_by(name: str, **options: Any) -> Callable[[Path, Path, TaskMessage, str], Encoded]:
    def encode(tmp_path: Path, store: Path, message: TaskMessage, payload: str) -> Encoded:
        signing = signing_of(tmp_path, name, store, **options)
        return Encoded(SIGNED, "utf-8", signing.sign(message.body).encode())

    return encode


def _changed(change: Callable[[str], str]) -> Callable[[Path, Path, TaskMessage, str], Encoded]:
    return lambda _, store, message, payload: Encoded(SIGNED, "utf-8", change(payload).encode())


@pytest.mark.parametrize(
    ("encode", "headers", "reason", "says"),
    [
        pytest.param(_changed(tampered), {}, "untrusted", "the message was changed", id="tampered with"),
        pytest.param(_changed(lambda payload: payload[:-40]), {}, "untrusted", "", id="cut"),
        pytest.param(_changed(lambda _: "[[], {}, {}]"), {}, "untrusted", "not signed", id="not signed, and said to be"),
        pytest.param(_changed(relabelled), {}, "content_disallowed", "python-serialize", id="said to be a pickle"),
        pytest.param(
            lambda *_: Encoded(JSON, "utf-8", b'[["good"], {}, null]'), {}, "content_disallowed", "application/json", id="not signed"
        ),
        pytest.param(
            lambda *_: Encoded("application/x-python-serialize", "binary", pickle.dumps((("good",), {}, None))), {}, "content_disallowed",
            "python-serialize", id="a pickle",
        ),
        pytest.param(_signed_by("mallory"), {}, "untrusted", "not in security_cert_store", id="of somebody unknown"),
        pytest.param(_signed_by("ann", serial=7), {}, "untrusted", "not in security_cert_store", id="of an unknown certificate"),
        pytest.param(_changed(str), {"task": "wipe"}, "untrusted", "another task", id="the body of another task's call"),
        pytest.param(_changed(str), {"id": "a2"}, "untrusted", "another task or id", id="the body of another call"),
    ],
)  # fmt: skip
def test_what_is_not_signed_by_somebody_trusted_is_a_dead_letter_with_the_reason_and_never_runs(
    app: Celeriac, tmp_path: Path, store: Path, encode: Any, headers: dict[str, str], reason: str, says: str
) -> None:
    ran: list[Any] = []
    app.task(ran.append, name="note")
    app.task(lambda *_: ran.append("wiped"), name="wipe")
    worker = TurningWorker(app, queue=QUEUE)
    message = app.message(
        "note", ("good",), {}, app.tasks["note"], task_id="a1", options={}, countdown=None, eta=None, expires=None
    )
    body = encode(tmp_path / "others", store, message, app_signing(app).sign(message.body))

    app.producer.publish(message._replace(body=body, headers={**message.headers, **headers}))
    before = len(dead_letters(app.broker_address(), QUEUE))
    worker.until_idle()

    letter = dead_letters(app.broker_address(), QUEUE)[before:][0]
    assert (letter.reason, ran) == (reason, [])
    assert says in letter.detail
    worker.close()


def app_signing(app: Celeriac) -> Signing:
    conf = app.conf
    return Signing(key=conf.security_key, certificate=conf.security_certificate, store=conf.security_cert_store)


@pytest.mark.parametrize(
    ("days", "says"), [((-2, -1), "expired at"), ((1, 2), "is not valid before")], ids=["expired", "not yet valid"]
)
def test_what_a_certificate_out_of_time_has_signed_is_refused_and_others_are_read(
    tmp_path: Path,
    store: Path,
    files: dict[str, str],
    days: tuple[float, float],
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    late = identity(tmp_path, "late", days=days, store=store)
    ann = Signing(**files)
    signed = Signing(key=str(late.key), certificate=str(late.certificate), store=str(store)).sign([1])

    with pytest.raises(UntrustedMessage, match=f"'DE late .*whose certificate {says}"):
        ann.read(signed)
    assert ann.read(ann.sign([1])) == [1]
    assert says in caplog.text


def test_a_value_that_cannot_be_written_is_refused_at_the_call(app: Celeriac) -> None:
    with pytest.raises(EncodeError, match="object"):
        app.task(print, name="t").delay(object())


def test_results_may_be_signed_too(files: dict[str, str]) -> None:
    app = make(files, result_serializer="auth")
    app.setup_security()
    assert app.backend is not None


# -- set-up


def test_a_key_may_have_a_password(tmp_path: Path, store: Path) -> None:
    ann = identity(tmp_path, "ann", password="dragon", store=store)
    given = {"key": str(ann.key), "certificate": str(ann.certificate), "store": str(store)}

    signing = Signing(**given, password="dragon")

    assert signing.read(signing.sign({"a": 1})) == {"a": 1}
    with pytest.raises(ImproperlyConfigured, match="security_key"):
        Signing(**given)
    with pytest.raises(ImproperlyConfigured, match="security_key"):
        Signing(**given, password="wyvern")


@pytest.mark.parametrize("digest", ["sha256", "SHA512", "sha3_256"])
def test_a_digest_may_be_chosen(files: dict[str, str], digest: str) -> None:
    signing = Signing(**files, digest=digest)

    assert signing.read(signing.sign([1])) == [1]
    with pytest.raises(UntrustedMessage, match="another key or security_digest"):
        Signing(**files, digest="sha384").read(signing.sign([1]))


def _without(name: str) -> Callable[[dict[str, str], Path], dict[str, Any]]:
    return lambda files, _: {**files, name: "/no/such/file"}


def _with_another_key(files: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    return {**files, "key": str(identity(tmp_path, "bob").key)}


def _with_text(name: str) -> Callable[[dict[str, str], Path], dict[str, Any]]:
    def change(files: dict[str, str], tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "text").write_text("hello")
        return {**files, name: str(tmp_path / "text")}

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(_without("key"), "security_key: '/no/such/file' cannot be read", id="no key"),
        pytest.param(_without("certificate"), "security_certificate: '/no/such/file' cannot be read", id="no certificate"),
        pytest.param(_without("store"), "holds no certificate", id="no store"),
        pytest.param(_with_text("key"), "security_key .* cannot be used", id="a key that is none"),
        pytest.param(_with_text("certificate"), "is no certificate in PEM", id="a certificate that is none"),
        pytest.param(_with_another_key, "is not of the key", id="the certificate of another key"),
        pytest.param(lambda files, _: {**files, "digest": "md5"}, "security_digest 'md5'", id="a digest that is too weak"),
        pytest.param(lambda files, _: {**files, "serializer": "auth"}, "must not be 'auth'", id="signed twice"),
    ],
)  # fmt: skip
def test_keys_that_cannot_work_are_refused_by_name(
    files: dict[str, str], tmp_path: Path, change: Any, says: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        Signing(**change(files, tmp_path))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"task_serializer": "json"}, "task_serializer='auth'"),
        ({"accept_content": ["auth", "json"]}, "accept_content=\\['auth'\\]"),
        ({"security_key": None}, "there is no security_key"),
        ({"security_cert_store": None}, "there is no security_cert_store"),
    ],
    ids=["calls are not signed", "unsigned ones are run", "no key", "no store"],
)
def test_a_set_up_that_leaves_a_gap_is_refused(files: dict[str, str], settings: dict[str, Any], says: str) -> None:
    app = make(files)
    app.conf.update(settings)

    with pytest.raises(ImproperlyConfigured, match=says):
        app.setup_security()


@pytest.mark.parametrize("name", ["security_key", "task_serializer", "accept_content"])
def test_settings_of_signed_messages_without_the_set_up_stop_a_client(name: str) -> None:
    values = {"security_key": "/k", "task_serializer": "auth", "accept_content": ["auth"]}
    app = Celeriac("shop", broker="memory://", set_as_current=False, **{name: values[name]})

    with pytest.raises(ImproperlyConfigured, match=rf"{name}.*setup_security\(\) was not called"):
        app.send_task("t")


def test_two_apps_of_a_process_cannot_sign_with_different_keys(app: Celeriac, tmp_path: Path, store: Path) -> None:
    bob = identity(tmp_path, "bob", store=store)
    other = make({"key": str(bob.key), "certificate": str(bob.certificate), "store": str(store)})

    with pytest.raises(ImproperlyConfigured, match="another app of this process"):
        other.setup_security()
    app.setup_security()  # the same again


def test_a_signed_body_says_whose_call_it_is(app: Celeriac) -> None:
    message = app.message("t", (1,), {}, None, task_id="a1", options={}, countdown=None, eta=None, expires=None)

    plain = json.loads(base64.b64decode(app_signing(app).sign(message.body)).split(BETWEEN, 4)[4])
    assert plain[2]["celeriac_bound_to"] == ["t", "a1"]

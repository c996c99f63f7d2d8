"""Mail about failed tasks: what is worth one and what it says, as tables; and sent by whole workers to a real SMTP server."""

import shutil
import smtplib
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from missing import give_up
from processes import wait_until

from celeriac import Celeriac
from celeriac.exceptions import ImproperlyConfigured
from celeriac.policy.errormail import MOST_KEYS, Book, Failure, is_wanted, listed, mail_of, names_of
from celeriac.wire.result import Described
from celeriac.worker.errormail import ErrorMails, MailServer, send

FAILURE = Failure("t.add", "i-1", "KeyError('k')", "Traceback …\nKeyError: 'k'\n", "(1, 'two')", "{'x': 3}", "w@host")


class Own(KeyError):
    pass


@pytest.mark.parametrize(
    ("whitelist", "error", "wanted"),
    [
        pytest.param((), KeyError, True, id="an empty list: all"),
        pytest.param((KeyError,), KeyError, True, id="the class"),
        pytest.param((LookupError,), KeyError, True, id="a class it derives from"),
        pytest.param((ValueError,), KeyError, False, id="another class"),
        pytest.param(("KeyError",), Own, True, id="a builtin by its bare name"),
        pytest.param((f"{__name__}.Own",), Own, True, id="a dotted name"),
        pytest.param(("Own",), Own, False, id="no bare names of others"),
        pytest.param(KeyError, Own, True, id="one class, no list"),
        pytest.param(("a.B", ValueError), Own, False, id="several others"),
    ],
)
def test_which_exceptions_mail_is_sent_about(whitelist: Any, error: type[BaseException], wanted: bool) -> None:
    assert is_wanted(names_of(error), listed(whitelist)) is wanted


@pytest.mark.parametrize("wrong", [(3,), (dict,), ("",), [None]], ids=str)
def test_a_white_list_that_is_none_is_refused_when_the_task_is_defined(wrong: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="task t: error_whitelist"):
        Celeriac("shop", set_as_current=False).task(lambda: 1, name="t", error_whitelist=wrong)


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        pytest.param([(0, "a")], [0], id="the first"),
        pytest.param([(0, "a"), (1, "a"), (9, "a")], [0, None, None], id="the rest of a period"),
        pytest.param([(0, "a"), (1, "a"), (2, "a"), (10, "a")], [0, None, None, 2], id="the next period says how many"),
        pytest.param([(0, "a"), (10, "a"), (20, "a")], [0, 0, 0], id="one a period"),
        pytest.param([(0, "a"), (1, "b"), (2, "a")], [0, 0, None], id="each key alone"),
        pytest.param([(0, "a"), (1, "a"), (10, "a"), (11, "a"), (20, "a")], [0, None, 1, None, 1], id="counted anew"),
    ],
)
def test_once_a_period(notes: list[tuple[float, str]], told: list[int | None]) -> None:
    book = Book(10.0)

    assert [book.note((key, "E"), now) for now, key in notes] == told


def test_what_is_remembered_is_bounded() -> None:
    book = Book(10.0)

    for number in range(3 * MOST_KEYS):
        assert book.note((str(number), "E"), 0.0) == 0

    assert len(book._told) == MOST_KEYS


def test_a_mail_says_what_failed_where_with_what() -> None:
    mail = mail_of(FAILURE._replace(left_out=7), redact_args=False)

    assert mail.subject == "[celeriac@host] Error: Task t.add (i-1): KeyError('k')"
    for part in ("w@host", "i-1", "(1, 'two')", "{'x': 3}", "Traceback …", "7 more failures"):
        assert part in mail.body


def test_arguments_are_left_out_on_request() -> None:
    mail = mail_of(FAILURE, redact_args=True)

    assert "two" not in mail.body
    assert "'x'" not in mail.body
    assert "left out" in mail.body


@pytest.mark.parametrize("field", ["task", "id", "shown", "hostname"])
@pytest.mark.parametrize("evil", ["\r\nBcc: x@y", "\nX: 1", "\x00\x1b[2J", "\u2028X", "\x85X", "a" * 10_000], ids=repr)
def test_nothing_in_a_failure_gets_out_of_the_subject(field: str, evil: str) -> None:
    mail = mail_of(FAILURE._replace(**{field: f"x{evil}"}), redact_args=False)

    assert mail.subject.isprintable()
    assert len(mail.subject) <= 200
    message = EmailMessage()
    message["Subject"] = mail.subject
    assert list(message) == ["Subject"]


class Inbox:
    """What a real SMTP server got. tls: none, ssl (from the start) or starttls, which asks for a login, too, with the password `right`."""

    def __init__(self, tls: str = "none", certificate: Path | None = None) -> None:
        self.mails: list[Any] = []
        self.logins: list[str] = []
        self.refuses = False
        more: dict[str, Any] = {}
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            more = {"ssl_context": context} if tls == "ssl" else {"tls_context": context, "require_starttls": True}
        if tls == "starttls":
            more |= {"authenticator": self._login, "auth_required": True}
        self._controller = Controller(self, hostname="127.0.0.1", port=_free(), **more)
        self.port = self._controller.port

    def _login(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login.decode())
        return AuthResult(success=data.password == b"right", handled=False)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuses:
            return "554 no"
        self.mails.append((envelope, message_from_bytes(envelope.content, policy=policy.default)))
        return "250 OK"

    def __enter__(self) -> "Inbox":
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    def subjects(self) -> list[str]:
        return [mail["Subject"] for _, mail in self.mails]


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox() as inbox:
        yield inbox


def settings(port: int, **more: str) -> dict[str, str]:
    return {
        "task_send_error_emails": "1", "admins": "Ann <ann@example.com>, bob@example.com", "email_host": "127.0.0.1",
        "email_port": str(port), "server_email": "shop@example.com", **more,
    }  # fmt: skip


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_sends_mail_about_failures_and_about_nothing_else(site: Any, inbox: Inbox, pool: str) -> None:
    worker = site.worker(
        "-P", pool, "-c", "2", app="mailed", **settings(inbox.port), worker_http_port=str(port := _free())
    )
    client = site.client()

    calls = [
        client.send_task("mailed.works", [1]),
        client.send_task("mailed.silent"),
        client.send_task("mailed.choosy", ["value"]),
        client.send_task("mailed.choosy", ["key"]),
        client.send_task("mailed.fails", ["hunter2"]),
        *(client.send_task("mailed.fails", [number]) for number in range(20)),
        client.send_task("mailed.fails", ["v"], {"kind": "value"}),
        client.send_task("mailed.fails", [], {"kind": "nasty"}),
    ]
    for call in calls:
        wait_until(call.ready, timeout_s=20)
    wait_until(lambda: len(inbox.mails) >= 4, timeout_s=10, what="the mails")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        metrics = answer.read().decode()
    assert 'celeriac_error_mails_total{result="sent"} 4.0' in metrics
    assert 'celeriac_error_mails_total{result="left_out"} 20.0' in metrics
    assert worker.terminate(timeout_s=10) == 0

    envelope, first = inbox.mails[0]
    assert (envelope.mail_from, envelope.rcpt_tos) == ("shop@example.com", ["ann@example.com", "bob@example.com"])
    assert (first["To"], first["From"]) == ("Ann <ann@example.com>, bob@example.com", "shop@example.com")
    by_kind = sorted(
        (s.partition("Task ")[2].split()[0], s.rpartition("): ")[2].partition("(")[0]) for s in inbox.subjects()
    )
    assert by_kind == [
        ("mailed.choosy", "KeyError"), ("mailed.fails", "KeyError"), ("mailed.fails", "Nasty"), ("mailed.fails", "ValueError")
    ]  # fmt: skip
    assert all(
        rcpt in {"ann@example.com", "bob@example.com"} for envelope, _ in inbox.mails for rcpt in envelope.rcpt_tos
    )
    assert all(mail["Bcc"] is None for _, mail in inbox.mails)
    body = next(
        mail for _, mail in inbox.mails if "KeyError" in mail["Subject"] and "fails" in mail["Subject"]
    ).get_content()
    assert "Traceback" in body


def test_a_lost_process_is_mailed_about_and_arguments_are_left_out_on_request(site: Any, inbox: Inbox) -> None:
    site.worker(
        "-P",
        "prefork",
        "-c",
        "1",
        app="mailed",
        **settings(inbox.port, task_error_email_redact_args="1"),
        task_acks_late="0",
    )
    client = site.client()

    client.send_task("mailed.dies")
    client.send_task("mailed.fails", ["hunter2", {"token": "s3cret"}][:1])
    wait_until(lambda: len(inbox.mails) == 2, timeout_s=20, what="the mails")

    lost = next(mail for _, mail in inbox.mails if "WorkerLostError" in mail["Subject"])
    assert "SIGKILL" in lost["Subject"] + lost.get_content()
    other = next(mail for _, mail in inbox.mails if "KeyError" in mail["Subject"])
    assert "args:      (left out" in other.get_content()


class Blackhole:
    """A server that takes connections and never says a word."""

    def __enter__(self) -> int:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()
        port: int = self._socket.getsockname()[1]
        return port

    def _take(self) -> None:
        while True:
            try:
                self._taken.append(self._socket.accept()[0])
            except OSError:
                return

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for taken in self._taken:
            taken.close()


@pytest.mark.parametrize("trouble", ["hangs", "nobody listens"])
def test_a_mail_server_in_trouble_touches_no_task_and_hardly_delays_the_end(site: Any, trouble: str) -> None:
    with Blackhole() as port:
        port = port if trouble == "hangs" else _free()
        worker = site.worker(
            "-P", "prefork", "-c", "2", app="mailed", **settings(port, email_timeout="30", task_error_email_period="0")
        )
        client = site.client()
        failing = [client.send_task("mailed.fails", [number]) for number in range(200)]
        started = time.monotonic()
        working = [client.send_task("mailed.works", [number]) for number in range(50)]

        assert [call.get(timeout=10) for call in working] == list(range(50))
        assert time.monotonic() - started < 5
        for call in failing:
            wait_until(call.ready, timeout_s=10)
        asked = time.monotonic()
        assert worker.terminate(timeout_s=10) == 0
        assert time.monotonic() - asked < 4
    assert ("slow" if trouble == "hangs" else "could not be sent") in worker.text()


def mailer(port: int, **more: Any) -> ErrorMails:
    server = MailServer(
        "127.0.0.1", port, None, None, False, False, 1.0, "shop@example.com", (("Ann", "ann@example.com"),)
    )
    return ErrorMails(server._replace(**more), hostname="w@host", period_s=0.0, redact_args=False)


class Type:
    name = "t"
    error_whitelist: tuple[str, ...] = ()


def test_what_waits_is_sent_before_the_end(inbox: Inbox) -> None:
    mails = mailer(inbox.port)
    for number in range(30):
        mails.failed(Type, {"id": str(number), "argsrepr": "(1,)"}, KeyError(number), None)

    mails.stop(within_s=10)

    assert (len(inbox.mails), mails.sent, mails.failures, mails.left_out) == (30, 30, 0, 0)


def test_a_refused_mail_is_counted_and_the_next_waits_for_a_while(inbox: Inbox) -> None:
    inbox.refuses = True
    mails = mailer(inbox.port)
    for number in range(5):
        mails.failed(Type, {"id": str(number)}, KeyError(number), None)

    mails.stop(within_s=10)

    assert (mails.sent, mails.failures, mails.left_out) == (0, 1, 4)


def test_an_error_of_another_process_is_known_by_its_class_and_by_its_name(inbox: Inbox) -> None:
    mails = mailer(inbox.port)
    kinds = [("KeyError", "builtins"), ("Stranger", "nowhere"), ("ValueError", "builtins")]

    class Choosy(Type):
        error_whitelist = ("builtins.LookupError", "nowhere.Stranger")

    for kind, module in kinds:
        error = Described({"exc_type": kind, "exc_message": ["m"], "exc_module": module}, "m", f"{kind}('m')")
        mails.failed(Choosy, {"id": kind}, error, None)
    mails.stop(within_s=10)

    assert sorted(subject.rpartition(": ")[2] for subject in inbox.subjects()) == ["KeyError('m')", "Stranger('m')"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its own certificate for 127.0.0.1, in one file."""
    if shutil.which("openssl") is None:
        give_up("openssl is not on PATH (Debian: apt-get install openssl)")
    both = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", both, "-out", f"{both}.crt"], check=True, capture_output=True)
    both.write_text(both.read_text() + Path(f"{both}.crt").read_text())
    return both


@pytest.mark.parametrize("tls", ["ssl", "starttls"])
def test_mail_goes_over_tls_to_a_server_that_is_trusted_and_to_no_other(
    tls: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = mail_of(FAILURE, redact_args=False)
    with Inbox(tls, certificate) as inbox:
        login = ("shop", "right") if tls == "starttls" else (None, None)
        server = MailServer(
            "127.0.0.1", inbox.port, *login, tls == "ssl", tls == "starttls", 2.0, "a@example.com", (("", "b@example.com"),)
        )  # fmt: skip
        with pytest.raises(ssl.SSLCertVerificationError):
            send(server, mail)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        if tls == "starttls":
            with pytest.raises(smtplib.SMTPAuthenticationError):
                send(server._replace(password="wrong"), mail)

        send(server, mail)

        assert len(inbox.mails) == 1
        assert set(inbox.logins) == ({"shop"} if tls == "starttls" else set())


def test_tls_that_a_server_does_not_speak_is_an_error_and_nothing_is_sent_without_it(inbox: Inbox) -> None:
    server = MailServer(
        "127.0.0.1", inbox.port, None, None, False, True, 2.0, "a@example.com", (("", "b@example.com"),)
    )

    with pytest.raises(smtplib.SMTPException, match="STARTTLS"):
        send(server, mail_of(FAILURE, redact_args=False))

    assert inbox.mails == []


def test_mail_without_admins_is_said_to_go_to_nobody(site: Any) -> None:
    worker = site.worker("-P", "threads", "-c", "1", app="mailed", task_send_error_emails="1")

    assert "set admins" in worker.text()


@pytest.mark.parametrize("wrong", ["ann", [("Ann",)], [3], ["Ann <ann>"]], ids=str)
def test_admins_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="admins"):
        Celeriac("shop", set_as_current=False, admins=wrong)


def test_django_s_names_of_admins_and_mail_servers_are_read() -> None:
    app = Celeriac("shop", set_as_current=False)
    app.config_from_object(
        {"ADMINS": (("Ann", "ann@example.com"),), "EMAIL_HOST": "mail", "EMAIL_PORT": "587", "EMAIL_USE_TLS": True}
    )

    assert (app.conf.admins, app.conf.email_host, app.conf.email_port) == ([("Ann", "ann@example.com")], "mail", 587)

"""Mail to the admins about failed tasks, from a thread of the worker's main process. A mail server that fails, is slow or hangs costs
no task anything, and delays a shutdown by two seconds at most.
"""

import logging
import queue
import smtplib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Mapping
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, NamedTuple

from celeriac.policy.errormail import Book, Failure, Mail, arguments_of, is_wanted, mail_of, names_of
from celeriac.wire.result import Described, class_name, exception_from_wire

log = logging.getLogger(__name__)

#: Mails that wait for the mail server; more are left out.
MOST_WAITING = 100
#: How long a shutdown waits for those that wait.
END_S = 2.0
#: After a mail that could not be sent, so long none is tried: a server that hangs takes its time for each.
PAUSE_S = 10.0


class MailServer(NamedTuple):
    """Where mail goes, and from whom to whom. timeout_s: of each step."""

    host: str
    port: int
    user: str | None
    password: str | None
    use_ssl: bool
    use_tls: bool
    timeout_s: float
    sender: str
    admins: tuple[tuple[str, str], ...]


class ErrorMails:
    """Knows which failures mail is sent about, and sends it. `failed` is called by the settler; it never waits and never raises."""

    def __init__(self, server: MailServer, *, hostname: str, period_s: float, redact_args: bool) -> None:
        self._server, self._hostname, self._redact_args = server, hostname, redact_args
        self._book = Book(period_s)
        self._waiting: queue.Queue[Mail | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._again_at = 0.0
        #: Counted for metrics.
        self.sent = self.failures = self.left_out = 0

    def failed(self, task: Any, headers: Mapping[str, Any], error: BaseException, traceback: str | None) -> None:
        """Send mail about this failure soon, if it is worth one."""
        try:
            if not is_wanted(_names(error), task.error_whitelist):
                return
            left_out = self._book.note((str(task.name), class_name(error)), time.monotonic())
            if left_out is None:
                self.left_out += 1
                return
            args, kwargs = arguments_of(headers)
            failure = Failure(
                str(task.name), str(headers.get("id")), _shown(error), traceback, args, kwargs, self._hostname, left_out
            )  # fmt: skip
            mail = mail_of(failure, redact_args=self._redact_args)
        except Exception:
            log.exception("%s[%s]: no mail could be written about its failure", task.name, headers.get("id"))
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="celeriac-mail", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(mail)
        except queue.Full:
            self.left_out += 1

    def counts(self) -> dict[str, int]:
        """Mails by what became of them."""
        return {"sent": self.sent, "failed": self.failures, "left_out": self.left_out}

    def stop(self, within_s: float = END_S) -> None:
        """Send what waits, within this time; what is left is only counted."""
        thread = self._thread
        if thread is None:
            return
        until = time.monotonic() + within_s
        try:
            self._waiting.put(None, timeout=within_s)
        except queue.Full:
            pass
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            log.warning(
                "the mail server %s is slow: up to %d error mails were not sent",
                self._server.host,
                self._waiting.qsize() + 1,
            )

    def _run(self) -> None:
        while (mail := self._waiting.get()) is not None:
            if time.monotonic() < self._again_at:
                self.left_out += 1
                continue
            try:
                send(self._server, mail)
                self.sent += 1
            except (OSError, smtplib.SMTPException, ValueError) as error:
                self.failures += 1
                self._again_at = time.monotonic() + PAUSE_S
                log.warning(
                    "an error mail could not be sent through %s:%d: %s; none is tried for %g s", self._server.host, self._server.port,
                    error, PAUSE_S,
                )  # fmt: skip


def send(server: MailServer, mail: Mail) -> None:
    """Send one mail. Raises OSError, smtplib.SMTPException, ValueError."""
    message = EmailMessage()
    message["Subject"] = mail.subject
    message["From"] = server.sender
    message["To"] = tuple(Address(name, addr_spec=address) for name, address in server.admins)
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=socket.gethostname())
    message.set_content(mail.body)
    if server.use_ssl:
        connection: smtplib.SMTP = smtplib.SMTP_SSL(
            server.host, server.port, timeout=server.timeout_s, context=ssl.create_default_context()
        )
    else:
        connection = smtplib.SMTP(server.host, server.port, timeout=server.timeout_s)
    with connection:
        if server.use_tls:
            connection.starttls(context=ssl.create_default_context())
        if server.user:
            connection.login(server.user, server.password or "")
        connection.send_message(message)


def error_mails(app: Any, hostname: str) -> ErrorMails | None:
    """What sends mail for this worker; None where no task wants any. Logs what cannot work."""
    conf = app.conf
    if not any(task.send_error_emails for task in app.tasks.values()):
        return None
    if not conf.admins:
        log.warning(
            "error mails are wanted (task_send_error_emails, send_error_emails), and nobody gets them: set admins"
        )
        return None
    server = MailServer(
        conf.email_host, conf.email_port, conf.email_host_user, conf.email_host_password, conf.email_use_ssl, conf.email_use_tls,
        conf.email_timeout, conf.server_email, tuple(conf.admins),
    )  # fmt: skip
    return ErrorMails(
        server,
        hostname=hostname,
        period_s=conf.task_error_email_period,
        redact_args=conf.task_error_email_redact_args,
    )


def _names(error: BaseException) -> frozenset[str]:
    """Of an error that another process raised, too: by its class, where this one has it, and by the name that was told."""
    if not isinstance(error, Described):
        return names_of(type(error))
    record = error.record
    return names_of(type(exception_from_wire(record, sys.modules))) | {
        f"{record.get('exc_module')}.{record.get('exc_type')}"
    }


def _shown(error: BaseException) -> str:
    return repr(error)

"""What a web process of the project does: `python -m djshop.scenes NAME` prints what became of it as JSON."""

import json
import os
import signal
import sys
import time
from typing import Any

from djshop.celery import app

app.import_tasks()

from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from djshop.blog.models import Article  # noqa: E402
from djshop.blog.tasks import index  # noqa: E402

from celeriac.contrib.django import DjangoTask  # noqa: E402
from celeriac.contrib.django.outbox import DjangoRows  # noqa: E402
from celeriac.contrib.outbox import Relay  # noqa: E402


def migrate() -> Any:
    """Make the tables; what `makemigrations --check` says of the outbox's."""
    call_command("makemigrations", "celeriac", check=True, dry_run=True, verbosity=0)
    call_command("migrate", run_syncdb=True, verbosity=0)
    return sorted(app.tasks)


def kind() -> Any:
    return isinstance(app.tasks["djshop.blog.tasks.index"], DjangoTask)


def on_commit() -> Any:
    sent = []
    with transaction.atomic():
        article = Article.objects.create(title="kept")
        index.delay_on_commit(article.pk)
        sent.append(waiting())
    sent.append(waiting())
    try:
        with transaction.atomic():
            index.apply_async_on_commit((article.pk,), priority=3)
            raise ZeroDivisionError
    except ZeroDivisionError:
        sent.append(waiting())
    try:
        index.delay_on_commit()
    except TypeError as error:
        return [*sent, str(error)]
    return sent


def outbox() -> Any:
    """Written with the commit, published right after it; not after a rollback."""
    seen = []
    with transaction.atomic():
        article = Article.objects.create(title="kept")
        handle = index.delay_in_outbox(article.pk)
        seen.append([waiting(), DjangoRows().waiting()[0]])
    seen.append([waiting(), DjangoRows().waiting()[0]])
    try:
        with transaction.atomic():
            index.delay_in_outbox(article.pk)
            raise ZeroDivisionError
    except ZeroDivisionError:
        seen.append([waiting(), DjangoRows().waiting()[0]])
    return [seen, handle.get(timeout=10) if os.environ.get("WORKER") else handle.id]


def race() -> Any:
    """(what a plain delay's task finds before the commit, what the outbox's finds after it), with a worker that waits for them."""
    with transaction.atomic():
        article = Article.objects.create(title="there")
        plain = index.delay(article.pk)
        plain.get(timeout=10, propagate=False)
        written = index.apply_async_in_outbox((article.pk,), task_id="written")
        time.sleep(0.5)
        before = written.state
    return [plain.state, type(plain.result).__name__, before, written.get(timeout=10)]


def die() -> Any:
    """SIGKILL between commit and publish."""
    transaction.on_commit(lambda: None)
    with transaction.atomic():
        article = Article.objects.create(title="kept")
        transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        index.delay_in_outbox(article.pk)
    return "alive"


def relay() -> Any:
    from celeriac.contrib.django.models import OutboxMessage

    OutboxMessage.objects.update(free_at=0)
    return [Relay(app, DjangoRows()).once(), Relay(app, DjangoRows()).once(), DjangoRows().waiting()[0]]


def connections() -> Any:
    from djshop.blog.tasks import connections

    return [connections.delay().get(timeout=10) for _ in range(4)]


def waiting() -> int:
    """Messages in the queue."""
    from celeriac.broker.depth import DepthProbe

    probe = DepthProbe(app.conf.broker_url)
    try:
        return int(probe.probe({"blog": 0.0})["blog"].ready)
    finally:
        probe.close()


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
    app.close()

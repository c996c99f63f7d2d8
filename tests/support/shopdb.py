"""An app with an outbox in the database that DATABASE names, on the broker that BROKER names: for relays, and for who is killed."""

import os
import signal
import sys
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from celeriac import Celeriac
from celeriac.contrib.sqlalchemy import Outbox

app = Celeriac(
    "shopdb", broker=os.environ["BROKER"], task_default_queue=os.environ.get("QUEUE", "celery"), set_as_current=False
)
engine = sa.create_engine(os.environ["DATABASE"])


class Base(DeclarativeBase):
    """Of the tables."""


class Article(Base):
    """What a task looks for."""

    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(50))


outbox = Outbox(app, Base.metadata, engine, fast=os.environ.get("FAST") == "1")


@app.task
def index(article: int, *rest: Any) -> str:
    """The guide's race: the article must be there when this runs."""
    with Session(engine) as session:
        return session.get_one(Article, article).title


def write_and_die(first: int, count: int, when: str) -> None:
    """Articles with a call each; then SIGKILL before, or right after, the last commit."""
    with Session(engine) as session:
        for number in range(first, first + count):
            session.add(Article(id=number, title=str(number)))
            outbox.delay(session, index, number)
            if when == "before" and number == first + count - 1:
                session.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            session.commit()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    write_and_die(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    time.sleep(60)

"""Tasks that fail, for mail about them. The app is `app`; settings come from CELERIAC_*."""

import os
import signal
from typing import Any

from celeriac import Celeriac

app = Celeriac("mailed", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND"))


class Nasty(Exception):
    """Its text would end a header and begin another one."""


@app.task
def fails(secret: Any = None, *, kind: str = "key") -> None:
    if kind == "nasty":
        raise Nasty("x\r\nBcc: everybody@example.com\r\n\r\nbody")
    raise {"key": KeyError, "value": ValueError, "lookup": IndexError}[kind](secret)


@app.task(send_error_emails=False)
def silent() -> None:
    raise KeyError("silent")


@app.task(error_whitelist=[LookupError])
def choosy(kind: str) -> None:
    raise {"key": KeyError, "value": ValueError}[kind](kind)


@app.task
def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def works(number: int) -> int:
    return number

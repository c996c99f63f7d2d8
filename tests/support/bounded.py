"""Tasks with bounds that keep jobs.py's ledger. The app is `app`, for workers and clients."""

import os
import time

from jobs import app, note

__all__ = ["app"]

if os.environ.get("BOUNDED") != "rates":

    @app.task(max_concurrency=2)
    def narrow(number: int, seconds: float = 0.1) -> None:
        note("start", number)
        time.sleep(seconds)
        note("end", number)


@app.task(rate_limit="20/s", rate_limit_scope="cluster")
def shared(number: int) -> None:
    note("start", number)


@app.task(rate_limit="6/m", rate_limit_key="order.account", rate_limit_scope="cluster")
def by_account(order: dict[str, int]) -> None:
    note("start", order["account"])

"""Deliveries as a broker would hand them to a worker, made by hand."""

import base64
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from celeriac.broker.consumer import Delivery
from celeriac.wire.message import STARTS, compose

_numbers = itertools.count(1)


def delivery(
    task: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    queue: str = "celery",
    body: Any = None,
    content_type: str = "application/json",
    content_encoding: str = "utf-8",
    properties: Mapping[str, Any] | None = None,
    embed: Mapping[str, Any] | None = None,
    starts: int = 0,
    sent_at: float | None = None,
    **headers: Any,
) -> Delivery:
    """A claimed message of one call, with a claim of its own. body: bytes in place of the encoded arguments."""
    number = next(_numbers)
    message = compose(
        id=headers.pop("id", f"id{number}"), task=task, args=list(args), kwargs=dict(kwargs or {}), queue=queue, origin="test",
        sent_at=time.time() if sent_at is None else sent_at, embed=embed,
    )  # fmt: skip
    payload = json.dumps(message.body).encode() if body is None else body
    all_headers = {**message.headers, **headers, **({STARTS: starts} if starts else {})}
    return Delivery(
        claim=f"claim{number}", queue=queue, headers=all_headers, properties=properties or {},
        body=base64.b64encode(payload).decode(), content_type=content_type, content_encoding=content_encoding,
        body_encoding="base64", starts=starts, redelivered=bool(starts),
    )  # fmt: skip

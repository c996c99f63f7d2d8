"""A task message as text: to be kept in a database until it is published."""

import base64
import json
from typing import Any

from kombu.utils.json import dumps as json_dumps
from kombu.utils.json import loads as json_loads

from celeriac.broker.codec import Encoded, encode
from celeriac.exceptions import DecodeError
from celeriac.wire.message import Patience, TaskMessage, Terms

#: Of a message, besides headers, body and terms.
_PLAIN = (
    "queue",
    "exchange",
    "routing_key",
    "priority",
    "serializer",
    "compression",
    "reply_to",
    "expiration_s",
    "due_at",
)


def to_text(message: TaskMessage) -> str:
    """JSON, with the body encoded by its serializer. Raises EncodeError."""
    content_type, encoding, payload = encode(message.body, message.serializer)
    record: dict[str, Any] = {name: getattr(message, name) for name in _PLAIN}
    record["headers"] = message.headers
    record["body"] = [content_type, encoding, base64.b64encode(payload).decode()]
    if message.terms is not None:
        record["terms"] = message.terms._asdict() | {"patience": list(message.terms.patience)}
    try:
        return json.dumps(record)
    except TypeError:  # headers of the caller that only kombu's JSON can write
        return str(json_dumps(record))


def from_text(text: str) -> TaskMessage:
    """The message; its body stays encoded. Raises DecodeError."""
    try:
        record = json_loads(text)
        content_type, encoding, payload = record["body"]
        terms = record.get("terms")
        return TaskMessage(
            headers=record["headers"],
            body=Encoded(content_type, encoding, base64.b64decode(payload)),
            terms=Terms(**{**terms, "patience": Patience(*terms["patience"])}) if terms else None,
            **{name: record[name] for name in _PLAIN},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"not a stored message: {text!r:.200}: {error}") from error

"""Bodies to bytes and back: kombu's serializers, with the common case (plain JSON) short."""

import json
from collections.abc import Collection
from typing import Any, NamedTuple

import orjson
from kombu import serialization
from kombu.compression import decompress
from kombu.exceptions import ContentDisallowed as KombuContentDisallowed
from kombu.exceptions import DecodeError as KombuDecodeError
from kombu.exceptions import EncodeError as KombuEncodeError
from kombu.utils.json import dumps as json_dumps
from kombu.utils.json import loads as json_loads

from celeriac.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    UntrustedMessage,
)
from celeriac.wire.message import NO_EMBED

JSON = "application/json"
#: Of signed messages: see broker/signing.py.
SIGNED = "application/data"
#: Of what orjson and json write alike, whatever the value.
_PLAIN = frozenset({int, str, bool, type(None)})
_TYPE_MARK = '"__type__"'
_CONTENT_TYPES = serialization.registry.name_to_type


class Encoded(NamedTuple):
    """A body that was encoded elsewhere: in the process that ran the task, or by the client whose message goes round again."""

    content_type: str
    encoding: str
    payload: bytes


def encode_body(body: tuple[Any, ...], serializer: str) -> tuple[str, str, bytes]:
    """As `encode`, of a task message's (args, kwargs, embed): in a tenth of the time when all arguments are numbers and text.

    orjson writes UUIDs and enumerations as bare text, and what is not a number as null: so nothing else is left to it.
    """
    if serializer == "json" and type(body) is tuple and len(body) == 3 and body[2] is NO_EMBED:
        args, kwargs, _ = body
        if _PLAIN.issuperset(map(type, args)) and _PLAIN.issuperset(map(type, kwargs.values())):
            try:
                return JSON, "utf-8", orjson.dumps(body)
            except TypeError:  # a whole number of more than 64 bits, half of a surrogate pair, a name that is no text
                return encode(body, serializer)
    return encode(body, serializer)


def encode(value: Any, serializer: str) -> tuple[str, str, bytes]:
    """(content type, encoding, bytes); an Encoded as it is. Raises EncodeError naming the value's type and the way out."""
    if type(value) is Encoded:
        return value
    try:
        if serializer == "json":
            try:
                return JSON, "utf-8", json.dumps(value).encode()
            except TypeError:  # datetime, UUID, Decimal and others: kombu's tagged form
                return JSON, "utf-8", json_dumps(value).encode()
        content_type, encoding, payload = serialization.dumps(value, serializer)
    except (KombuEncodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(
            f"cannot serialize {value!r:.200} as {serializer}: {error}."
            " Pass plain values (numbers, text, lists, mappings) or choose another serializer"
        ) from error
    except serialization.SerializerNotInstalled as error:
        raise EncodeError(
            f"serializer {serializer!r} is not installed; known: {', '.join(sorted(_CONTENT_TYPES))}"
        ) from error
    return content_type, encoding, payload if isinstance(payload, bytes) else payload.encode(encoding)


def decode(
    payload: bytes | str, content_type: str, encoding: str, accept: Collection[str], compression: str | None = None
) -> Any:
    """The value. accept: content types (not names) that may be read.

    Raises ContentDisallowed, UntrustedMessage for a signature that proves nothing, or DecodeError with the reason.
    """
    if content_type not in accept:
        raise ContentDisallowed(
            f"content type {content_type!r} is not accepted (accept_content allows: {', '.join(sorted(accept))})"
        )
    try:
        if compression:
            payload = decompress(payload, compression)
        if content_type == JSON:
            text = payload.decode(encoding or "utf-8") if isinstance(payload, bytes) else payload
            return json_loads(text) if _TYPE_MARK in text else json.loads(text)
        return serialization.loads(payload, content_type, encoding, accept=accept)
    except KombuContentDisallowed as error:
        raise ContentDisallowed(str(error)) from error
    except KombuDecodeError as error:
        inner = error.args[0] if error.args else None  # kombu wraps what a decoder raises
        if isinstance(inner, ContentDisallowed | UntrustedMessage):
            raise inner from None
        raise DecodeError(f"the body cannot be read as {content_type}: {error}") from error
    except Exception as error:  # bytes of a stranger: zlib, decimal and others each raise their own
        raise DecodeError(f"the body cannot be read as {content_type}: {error}") from error


def content_types(names: Collection[str]) -> frozenset[str]:
    """The content types that accept_content's names (json, pickle, …) or types stand for.

    Raises ImproperlyConfigured for a name nobody knows.
    """
    found = set()
    for name in names:
        if name not in _CONTENT_TYPES and "/" not in name:
            if name == "auth":
                raise ImproperlyConfigured(
                    "accept_content: 'auth' stands for signed messages, and app.setup_security() was not called"
                )
            raise ImproperlyConfigured(
                f"accept_content: {name!r} is not a serializer; known: {', '.join(sorted(_CONTENT_TYPES))}"
            )
        found.add(_CONTENT_TYPES.get(name, name))
    return frozenset(found)

"""A stored value's bytes: the serializer's, and around them, where asked for, compression that names itself.

Source: the form of celery/backends/base.py of 5.7: a mark, the compression's content type, NUL, the compressed bytes.
"""

from collections.abc import Collection
from typing import Any

from kombu.compression import compress, decompress, get_encoder
from kombu.compression import encoders as compressions

from celeriac.broker.codec import JSON, decode, encode
from celeriac.exceptions import DecodeError, ImproperlyConfigured

#: No serializer's output begins like this.
MARK = b"\x00celery-compressed\x00"
_PICKLE = "application/x-python-serialize"


class Payloads:
    """Writes values with one serializer and compression; reads what either wrote, whatever its compression.

    Raises ImproperlyConfigured for a compression nobody has.
    """

    def __init__(self, serializer: str, accept: Collection[str], compression: str | None = None) -> None:
        self._serializer = serializer
        self._content_type, self._encoding, _ = encode(None, serializer)
        self._accept = frozenset(accept) | {self._content_type}
        if compression:
            try:
                get_encoder(compression)
            except KeyError:
                known = ", ".join(sorted(compressions()))
                raise ImproperlyConfigured(
                    f"result_compression {compression!r} is not known; use one of: {known}"
                ) from None
        self._compression = compression or None
        #: Whether what is written is JSON as it stands.
        self.plain_json = self._content_type == JSON and self._compression is None

    def encode(self, value: Any) -> bytes:
        """The value's bytes. Raises EncodeError naming it."""
        payload = encode(value, self._serializer)[2]
        if self._compression is None:
            return payload
        packed, content_type = compress(payload, self._compression)
        return b"".join((MARK, content_type.encode(), b"\x00", packed))

    def decode(self, payload: bytes) -> Any:
        """The value. Raises DecodeError; ContentDisallowed for a pickle that accept_content does not list."""
        payload = bytes(payload)
        if payload.startswith(MARK):
            content_type, _, packed = payload[len(MARK) :].partition(b"\x00")
            try:
                payload = decompress(packed, content_type.decode())
            except Exception as error:  # each compression raises its own
                raise DecodeError(f"a stored result cannot be decompressed as {content_type!r}: {error}") from error
        if (
            payload[:1] == b"\x80" and self._content_type == JSON
        ):  # no JSON begins so: Celery before 5.7 pickled results in SQL
            return decode(payload, _PICKLE, "binary", self._accept)
        return decode(payload, self._content_type, self._encoding, self._accept)

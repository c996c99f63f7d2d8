"""Where beat keeps when each entry last ran, and which ticks it has claimed: the coordination store, or a file.

With the coordination store several beats may run; each tick is claimed by one of them. A file is for one beat alone.
"""

import fcntl
import json
import os
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from celeriac.beat.ticker import read_tick_id, tick_id
from celeriac.broker.coordination import Coordination
from celeriac.exceptions import BackendUnavailable, ImproperlyConfigured


class Store(Protocol):
    """What the service needs. A tick is the text of ticker.tick_id. Each call raises BackendUnavailable."""

    #: Whether several beats may use it.
    shared: bool

    @property
    def where(self) -> str:
        """For people."""

    def forget_others(self, entries: Collection[str]) -> list[str]:
        """Forget entries that are none of these; which they were."""

    def lasts(self, entries: Collection[str]) -> tuple[datetime, dict[str, datetime]]:
        """The present moment by the store's clock, and the last run of each; of one never seen, now."""

    def claim(self, entry: str, last: datetime, moment: datetime, *, send: bool) -> datetime | None:
        """Let `moment` be the entry's last run, if `last` is it still. None: so it is, and with `send` its tick is claimed.

        Else the last run as it is now: another beat was faster.
        """

    def confirm(self, tick: str) -> None:
        """It was sent: let go of the claim."""

    def put_off(self, tick: str, pause_s: float) -> None:
        """It was not sent: whoever asks after that pause gets it."""

    def overdue(self, entries: Collection[str]) -> tuple[datetime, list[str]]:
        """The present moment, and ticks of these entries whose claim ran out without a confirmation; they are claimed anew, by us."""

    def close(self) -> None:
        """Let go of it."""


class SharedStore:
    """In the coordination store, under the app's name. claim_s: how long a beat has to send what it claimed."""

    shared = True

    def __init__(self, coordination: Coordination, app: str, *, claim_s: float) -> None:
        self._beat = coordination.beat
        self._url = coordination.url
        self._app = app
        self._claim_s = claim_s

    @property
    def where(self) -> str:
        return self._url

    def forget_others(self, entries: Collection[str]) -> list[str]:
        return [entry.decode() for entry in self._beat("forget", self._app, *entries)]

    def lasts(self, entries: Collection[str]) -> tuple[datetime, dict[str, datetime]]:
        now, *found = self._beat("lasts", self._app, "", *entries)
        if not all(found):
            now, *found = self._beat("lasts", self._app, _moment(now).isoformat(), *entries)
        return _moment(now), {
            entry: datetime.fromisoformat(last.decode()) for entry, last in zip(entries, found, strict=True)
        }

    def claim(self, entry: str, last: datetime, moment: datetime, *, send: bool) -> datetime | None:
        tick = tick_id(entry, moment) if send else ""
        faster = self._beat("claim", self._app, entry, last.isoformat(), moment.isoformat(), tick, self._claim_s)
        return datetime.fromisoformat(faster.decode()) if faster else None

    def confirm(self, tick: str) -> None:
        self._beat("confirm", self._app, tick)

    def put_off(self, tick: str, pause_s: float) -> None:
        self._beat("put_off", self._app, tick, pause_s)

    def overdue(self, entries: Collection[str]) -> tuple[datetime, list[str]]:
        now, *ticks = self._beat("overdue", self._app, self._claim_s, *entries)
        return _moment(now), [tick.decode() for tick in ticks]

    def close(self) -> None:
        """The app closes the connection."""


def _moment(seconds: bytes) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)


class FileStore:
    """In a JSON file, written anew and put in place at each change: what is there is whole. Locked while it is open.

    Raises ImproperlyConfigured when another beat has it open, when it cannot be written, or when it holds something else.
    """

    shared = False

    def __init__(self, path: Path, *, claim_s: float) -> None:
        self._path = path
        self._claim_s = claim_s
        try:
            self._lock = open(f"{path}.lock", "a", encoding="utf-8")  # noqa: SIM115 - open as long as the store
        except OSError as error:
            raise ImproperlyConfigured(
                f"cannot write {path} ({error.strerror}): set beat_schedule_filename (-s) to a file that can be written,"
                " or coordination_url to a Redis"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ImproperlyConfigured(
                f"another beat uses {path}: with a file there may be one; with a Redis (coordination_url) there may be several"
            ) from None
        try:
            self._lasts, self._claims = self._read()
        except ImproperlyConfigured:
            self._lock.close()
            raise

    @property
    def where(self) -> str:
        return str(self._path)

    def _read(self) -> tuple[dict[str, datetime], dict[str, datetime]]:
        try:
            content = json.loads(self._path.read_text())
            return _moments(content["lasts"]), _moments(content["claims"])
        except FileNotFoundError:
            return {}, {}
        except OSError as error:
            raise ImproperlyConfigured(f"cannot read beat's state in {self._path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ImproperlyConfigured(
                f"{self._path} is not a file of celeriac beat: move it away, or name another with beat_schedule_filename (-s)"
            ) from error

    def _write(self) -> None:
        content = {
            "lasts": {entry: moment.isoformat() for entry, moment in self._lasts.items()},
            "claims": {tick: moment.isoformat() for tick, moment in self._claims.items()},
        }
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise BackendUnavailable(f"cannot write {self._path}: {error.strerror}") from error

    def forget_others(self, entries: Collection[str]) -> list[str]:
        gone = [entry for entry in self._lasts if entry not in entries]
        self._lasts = {entry: last for entry, last in self._lasts.items() if entry in entries}
        self._claims = {tick: end for tick, end in self._claims.items() if read_tick_id(tick)[0] in entries}
        self._write()
        return gone

    def lasts(self, entries: Collection[str]) -> tuple[datetime, dict[str, datetime]]:
        now = datetime.now(UTC)
        unseen = [entry for entry in entries if entry not in self._lasts]
        if unseen:
            self._lasts.update(dict.fromkeys(unseen, now))
            self._write()
        return now, {entry: self._lasts[entry] for entry in entries}

    def claim(self, entry: str, last: datetime, moment: datetime, *, send: bool) -> datetime | None:
        if self._lasts.get(entry, last) != last:
            return self._lasts[entry]
        self._lasts[entry] = moment
        if send:
            self._claims[tick_id(entry, moment)] = self._end(self._claim_s)
        self._write()
        return None

    def confirm(self, tick: str) -> None:
        self._claims.pop(tick, None)
        self._write()

    def put_off(self, tick: str, pause_s: float) -> None:
        self._claims[tick] = self._end(pause_s)
        self._write()

    def overdue(self, entries: Collection[str]) -> tuple[datetime, list[str]]:
        now = datetime.now(UTC)
        late = [tick for tick, end in self._claims.items() if end <= now and read_tick_id(tick)[0] in entries]
        if late:
            self._claims.update(dict.fromkeys(late, self._end(self._claim_s)))
            self._write()
        return now, late

    def _end(self, pause_s: float) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=pause_s)

    def close(self) -> None:
        self._lock.close()


def _moments(texts: dict[str, Any]) -> dict[str, datetime]:
    moments = {name: datetime.fromisoformat(text) for name, text in texts.items()}
    if any(moment.tzinfo is None for moment in moments.values()):
        raise ValueError("a moment without its zone")
    return moments

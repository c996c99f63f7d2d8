"""What one sees of a local run: a live page on a terminal, a line per change elsewhere, JSON lines for programs."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from celeriac_operator.local.cluster import Happening, Scaled
from celeriac_operator.local.recorder import Recorder
from celeriac_operator.loop import Tick
from celeriac_operator.scaling.signals import PodSample

log = logging.getLogger("celeriac_operator.local")

#: Seconds between two lines of mere progress where there is no terminal.
PROGRESS_S = 5.0
#: Events that say again what the write of the scale has said.
SCALED = ("ScaledUp", "ScaledDown")
#: Lines of the recent past that the live page shows.
RECENT = 6


class View(Protocol):
    """Something that shows. `show` is called some times a second with everything that happened so far."""

    def start(self) -> None: ...

    def note(self, text: str) -> None: ...

    def show(self, scaled: Sequence[Scaled], happenings: Sequence[Happening]) -> None: ...

    def stop(self) -> None: ...


def view_for(recorder: Recorder, *, as_json: bool, plain: bool) -> View:
    """The view that suits where the output goes."""
    stream = sys.stdout
    if as_json:
        return JsonView(recorder, stream)
    if plain or not stream.isatty():
        return PlainView(recorder, stream)
    return LiveView(recorder, Console(file=stream))


class Enduring:
    """A view whose terminal or pipe may go away. `on_loss` is told once; after that nothing is shown, and nothing fails."""

    def __init__(self, view: View, *, on_loss: Callable[[], None]) -> None:
        self._view: View | None = view
        self._on_loss = on_loss

    def start(self) -> None:
        self._try(lambda view: view.start())

    def note(self, text: str) -> None:
        self._try(lambda view: view.note(text))

    def show(self, scaled: Sequence[Scaled], happenings: Sequence[Happening]) -> None:
        self._try(lambda view: view.show(scaled, happenings))

    def stop(self) -> None:
        self._try(lambda view: view.stop())

    def _try(self, act: Callable[[View], None]) -> None:
        if self._view is None:
            return
        try:
            act(self._view)
        except OSError as error:
            log.warning("the output went away (%s): stopping", error)
            self._view = None
            # What is still buffered would fail again when the interpreter ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            self._on_loss()


def work_line(tick: Tick, rate_per_s: float) -> str:
    """One pool in one line: what waits, what runs, what is done."""
    queues = tick.signals.queues
    counts = {
        "ready": sum(q.ready for q in queues),
        "running": sum(q.leased - q.reserved for q in queues),
        "delayed": sum(q.delayed for q in queues),
        "throttled": sum(q.throttled for q in queues),
        "dead": sum(q.dead for q in queues),
    }
    waiting = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "ready")
    done = sum(q.completed for q in queues)
    target = tick.signals.target
    return (
        f"{waiting}; {done} done, {rate_per_s:.1f}/s; {target.ready_replicas} of {target.replicas} replicas ready"
        f", {sum(p.busy for p in tick.signals.pods)} slots busy"
    )


class _Past:
    """What is new since the last look, in order."""

    def __init__(self) -> None:
        self._seen = (0, 0)

    def news(self, scaled: Sequence[Scaled], happenings: Sequence[Happening]) -> list[Scaled | Happening]:
        fresh: list[Scaled | Happening] = [*scaled[self._seen[0] :], *happenings[self._seen[1] :]]
        self._seen = (len(scaled), len(happenings))
        return sorted(fresh, key=lambda item: item.at)


class PlainView:
    """A line whenever something changed, and one of progress every few seconds while there is work."""

    def __init__(self, recorder: Recorder, stream: TextIO) -> None:
        self._recorder = recorder
        self._stream = stream
        self._past = _Past()
        self._writes: dict[str, str] = {}
        self._lines: dict[str, str] = {}
        self._progress_at: dict[str, float] = {}

    def start(self) -> None:
        """Nothing to prepare."""

    def note(self, text: str) -> None:
        self._say(time.time(), text)

    def show(self, scaled: Sequence[Scaled], happenings: Sequence[Happening]) -> None:
        ticks = {tick.pool.name: tick for tick in self._recorder.ticks()}
        for item in self._past.news(scaled, happenings):
            if isinstance(item, Scaled):
                self._writes[item.pool] = f"{item.before} -> {item.after} replicas"
            elif item.reason in SCALED:  # it follows the write, and has the reason
                self._say(item.at, f"{item.pool}: {self._writes.get(item.pool, item.reason)}: {item.message}")
            else:
                self._say(item.at, f"{item.pool}: {item.reason}: {item.message}")
        for name, tick in ticks.items():
            line = work_line(tick, self._recorder.rate_per_s(tick.pool.key))
            due = tick.now - self._progress_at.get(name, 0.0) >= PROGRESS_S
            if line != self._lines.get(name) and due:
                self._lines[name], self._progress_at[name] = line, tick.now
                self._say(tick.now, f"{name}: {line}")

    def stop(self) -> None:
        """Nothing to put away."""

    def _say(self, at: float, text: str) -> None:
        self._stream.write(f"{at - self._recorder.started_at:7.1f}s  {text}\n")
        self._stream.flush()


class JsonView:
    """An object a line: `{"at", "event": "note" | "scale" | "event" | "tick", ...}`."""

    def __init__(self, recorder: Recorder, stream: TextIO) -> None:
        self._recorder = recorder
        self._stream = stream
        self._past = _Past()
        self._shown: dict[str, float] = {}

    def start(self) -> None:
        """Nothing to prepare."""

    def note(self, text: str) -> None:
        self._say(time.time(), "note", {"text": text})

    def show(self, scaled: Sequence[Scaled], happenings: Sequence[Happening]) -> None:
        for item in self._past.news(scaled, happenings):
            if isinstance(item, Scaled):
                self._say(item.at, "scale", {"pool": item.pool, "from": item.before, "to": item.after})
            else:
                told = {"pool": item.pool, "type": item.kind, "reason": item.reason, "message": item.message}
                self._say(item.at, "event", told)
        for tick in self._recorder.ticks():
            if self._shown.get(tick.pool.name) != tick.now:
                self._shown[tick.pool.name] = tick.now
                self._say(tick.now, "tick", _tick_json(tick))

    def stop(self) -> None:
        """Nothing to put away."""

    def _say(self, at: float, event: str, fields: dict[str, Any]) -> None:
        line = {"at": round(at - self._recorder.started_at, 3), "event": event, **fields}
        self._stream.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._stream.flush()


def _tick_json(tick: Tick) -> dict[str, Any]:
    return {
        "pool": tick.pool.name,
        "replicas": tick.signals.target.replicas,
        "ready_replicas": tick.signals.target.ready_replicas,
        "desired": tick.decision.desired,
        "limited_by": tick.decision.limited_by,
        "summary": tick.decision.summary,
        "broker_ok": tick.signals.broker_ok,
        "queues": {
            q.name: {
                "ready": q.ready,
                "reserved": q.reserved,
                "leased": q.leased,
                "delayed": q.delayed,
                "throttled": q.throttled,
                "dead": q.dead,
                "started": q.started,
                "completed": q.completed,
            }
            for q in tick.signals.queues
        },
    }


class LiveView:
    """A page that is drawn anew some times a second; what it leaves behind is its last state."""

    def __init__(self, recorder: Recorder, console: Console) -> None:
        self._recorder = recorder
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._past = _Past()
        self._recent: list[str] = []

    def start(self) -> None:
        self._live.start()

    def note(self, text: str) -> None:
        self._remember(time.time(), text)
        self._draw()

    def show(self, scaled: Sequence[Scaled], happenings: Sequence[Happening]) -> None:
        for item in self._past.news(scaled, happenings):
            if isinstance(item, Scaled):
                self._remember(item.at, f"{item.pool}: {item.before} -> {item.after} replicas")
            elif item.reason not in SCALED:
                self._remember(item.at, f"{item.pool}: {item.reason}: {item.message}")
        self._draw()

    def stop(self) -> None:
        self._live.stop()

    def _remember(self, at: float, text: str) -> None:
        self._recent = [*self._recent, f"{at - self._recorder.started_at:7.1f}s  {text}"][-RECENT:]

    def _draw(self) -> None:
        panels: list[RenderableType] = [
            Panel(_page(tick, self._recorder.rate_per_s(tick.pool.key)), title=_title(tick), title_align="left")
            for tick in self._recorder.ticks()
        ]
        if self._recent:
            panels.append(Text("\n".join(self._recent), style="dim", no_wrap=True, overflow="ellipsis"))
        self._live.update(Group(*panels), refresh=True)


def _title(tick: Tick) -> str:
    objective = tick.spec.objective
    return f"{tick.pool.name}  {tick.spec.target_ref.name}  {objective.type} {objective.seconds}s"


def _page(tick: Tick, rate_per_s: float) -> RenderableType:
    return Group(_queues(tick), Text(), _replicas(tick, rate_per_s), _why(tick))


def _queues(tick: Tick) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("queue")
    for name in ("ready", "reserved", "running", "delayed", "throttled", "dead", "oldest", "done", "failed", "retried"):
        table.add_column(name, justify="right")
    for q in tick.signals.queues:
        age = "-" if q.oldest_age_s is None else f"{q.oldest_age_s:.0f}s"
        counts = (q.ready, q.reserved, q.leased - q.reserved, q.delayed, q.throttled, q.dead)
        table.add_row(
            q.name,
            *(str(count) if count else Text("0", style="dim") for count in counts),
            age,
            str(q.completed),
            Text(str(q.failed), style="red" if q.failed else "dim"),
            Text(str(q.retried), style="yellow" if q.retried else "dim"),
        )
    return table


def _replicas(tick: Tick, rate_per_s: float) -> Text:
    pods = [pod for pod in tick.signals.pods if not pod.deleting]
    text = Text("pods ")
    for pod in sorted(pods, key=lambda pod: pod.created_at or 0.0):
        text.append(*_glyph(pod))
    if not pods:
        text.append("none", style="dim")
    slots = sum(pod.slots for pod in pods if pod.ready)
    busy = sum(pod.busy for pod in pods)
    text.append(
        f"   {tick.signals.target.ready_replicas} ready, {tick.decision.desired} wanted"
        f" ({tick.spec.min_replicas} to {tick.spec.max_replicas})   {busy}/{slots} slots busy   {rate_per_s:.1f} done/s"
    )
    return text


def _glyph(pod: PodSample) -> tuple[str, str]:
    """(sign, style): full works, empty idles, half drains, dotted starts, a cross cannot start."""
    if pod.pending_reason:
        return ("x", "red")
    if pod.drain_state:
        return ("◐", "yellow")
    if not pod.ready:
        return ("◌", "blue")
    return ("●", "green") if pod.busy else ("○", "green")


def _why(tick: Tick) -> Text:
    if not tick.signals.broker_ok:
        return Text(f"broker: {tick.signals.broker_error}", style="red")
    return Text(f"why  {tick.decision.summary}")

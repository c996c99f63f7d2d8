"""Beat: sends periodic tasks at their times. Entries, what is due, what was sent, and the service that does it."""

from celeriac.beat.entries import BeatLazyFunc, Entry

__all__ = ["BeatLazyFunc", "Entry"]

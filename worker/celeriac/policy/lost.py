"""Why a child process went away, in words that tell a person what to look at. Pure."""

from signal import Signals

#: A child that cannot answer any more (the body has closed its socket) ends with this.
CANNOT_ANSWER = 70

_HINTS = {
    "SIGKILL": "perhaps out of memory: see the container's limit, and worker_max_memory_per_child",
    "SIGSEGV": "a crash in native code; its standard error shows where",
    "SIGBUS": "a crash in native code, or a full /dev/shm",
    "SIGABRT": "native code has given up; see its output above",
    "SIGTERM": "somebody has sent it to the child itself, or to the whole group",
}


def how_it_ended(exit_code: int | None, *, peak_bytes: int = 0, out_of_memory: bool = False) -> str:
    """The end of a child that ran a body, as the end of the sentence "the process that ran it …".

    exit_code       as Python gives it: negative for a signal; None when nobody could tell.
    peak_bytes      the most memory it had, 0 when unknown. out_of_memory: the kernel says that it has killed for memory meanwhile.
    """
    if exit_code is None:
        return "went away with the process that it was forked from"
    if exit_code < 0:
        name = signal_name(-exit_code)
        hint = "out of memory, says the kernel" if out_of_memory and name == "SIGKILL" else _HINTS.get(name, "")
        peak = f"its peak was {peak_bytes / 2**20:.0f} MiB" if peak_bytes and name == "SIGKILL" else ""
        return f"was killed by {name}" + "".join(f"; {part}" for part in (hint, peak) if part)
    if exit_code == CANNOT_ANSWER:
        return "could not answer any more: its socket to the worker was closed (does the task close file descriptors?)"
    return f"ended with exit code {exit_code} (does the task call os._exit?)"


def how_it_never_began(exit_code: int, *, late_s: float | None) -> str:
    """The end of a child that was never ready for a body, as the end of the sentence "child process 123 …".

    exit_code   as above. late_s: seconds after which it was killed because it was still not ready, None: it ended by itself.
    """
    if late_s is not None:
        return f"was not ready after {late_s:g} s and was killed: a receiver of worker_process_init hangs"
    how = f"was killed by {signal_name(-exit_code)}" if exit_code < 0 else f"ended with exit code {exit_code}"
    return f"{how} before it was ready: see what it said above, and what receivers of worker_process_init do"


def signal_name(signum: int) -> str:
    """SIGKILL for 9."""
    try:
        return Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def restart_pause_s(failures: int) -> float:
    """Seconds before a child is forked again, after so many in a row that ended before they had answered anything."""
    return 0.0 if failures == 0 else min(10.0, 0.25 * 2 ** min(failures, 10))

"""Text for people: it never makes a run fail, stall or end."""

import os
import select
import sys
from contextlib import suppress
from io import TextIOWrapper

from vigmpi.errors import RunError, error_reason

_PIPE_BYTES = 4096  # a pipe that is ready takes as many without blocking (POSIX: PIPE_BUF)


def open_standard_streams() -> None:
    """Open those that the parent closed, so that no other file takes their numbers.

    Characters that standard output cannot encode become escapes, as on standard error.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def show(text: str, patience_s: float = 0.5) -> None:
    """Write to standard error what its reader takes; the rest is lost.

    Nothing is raised if it cannot be written: the disk is full, or the reader has ended.

    Args:
        patience_s: for how long to wait for a reader that takes nothing, such as a terminal that
            was stopped.
    """
    content = text.encode(sys.stderr.encoding, errors="backslashreplace")
    with suppress(OSError):
        for start in range(0, len(content), _PIPE_BYTES):
            _, ready, _ = select.select([], [2], [], patience_s)
            if not ready:
                return
            os.write(2, content[start : start + _PIPE_BYTES])


def print_result(text: str) -> None:
    """Print to standard output.

    Raises:
        RunError: if it cannot be written.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        raise RunError(
            f"cannot write to standard output: {error_reason(error)}. Use another file or reader."
        ) from error


def close_standard_output() -> None:
    """Drop what could not be written, for which Python would otherwise change the exit status."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

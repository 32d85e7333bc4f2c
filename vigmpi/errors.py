"""Exceptions that end a run with a message of one line."""

import os


class InputError(Exception):
    """Invalid usage or input.

    The message has the format `<what is wrong>: <what was given>. <What to do>.` Rank 0 prints it
    as one line and exits with status 2.
    """

    def __str__(self) -> str:
        """Return the message on one line, whatever the input contained."""
        return " ".join(super().__str__().split())


class HostError(Exception):
    """Fault of one host before its ranks have met others; its first rank prints one line."""


class RankError(Exception):
    """Failure that one rank knows of, such as a full disk; it prints one line and aborts all."""


class RunError(Exception):
    """Failure that all ranks know of; rank 0 prints its one line and exits with status 1."""


def error_reason(error: BaseException) -> str:
    """Return the cause of an error of the operating system or of a library, on one line."""
    if number := getattr(error, "errno", None):
        return os.strerror(number)  # h5py's own text repeats the path and HDF5's flags
    return " ".join(str(error).split()) or type(error).__name__

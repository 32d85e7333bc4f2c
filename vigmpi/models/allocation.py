"""Refusal of models and images that do not fit into memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from vigmpi.errors import InputError

_SMALLER = "smaller images, a smaller model, or more --stages"


def not_enough_memory(subject: str, problem: str, remedy: str = _SMALLER) -> InputError:
    """Return the error that refuses a model.

    Args:
        subject: the options that determine the size of the model.
        remedy: what a user can use instead.
    """
    return InputError(f"not enough memory for {subject}: {problem}. Use {remedy}.")


@contextmanager
def refusing_what_cannot_be_allocated(subject: str, remedy: str = _SMALLER) -> Iterator[None]:
    """Raise InputError if a tensor or an array of a model cannot be allocated.

    Args:
        subject, remedy: as in `not_enough_memory`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # of numpy, of torch
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise not_enough_memory(subject, "it cannot be allocated", remedy) from error

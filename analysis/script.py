"""Error handling shared by the analysis scripts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vigmpi.errors import InputError


@contextmanager
def exit_on_input_error(program: str) -> Iterator[None]:
    """Turn an InputError into one line on standard error and exit status 2."""
    try:
        yield
    except InputError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2)

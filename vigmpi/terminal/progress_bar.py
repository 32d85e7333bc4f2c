import os
import sys
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from vigmpi.standard_streams import show


def progress_bar(**options: Any) -> tqdm:
    """Return a bar on standard error that a reader cannot stop.

    Args:
        options: those of `tqdm`.
    """
    return tqdm(file=_StandardError(), ncols=_columns(), **options)


class _StandardError:
    encoding = property(lambda _: sys.stderr.encoding)

    def write(self, text: str) -> None:
        show(text, patience_s=0)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return os.isatty(2)


def _columns() -> int | None:
    """Return the width of the terminal, if standard error is one."""
    with suppress(OSError):
        return os.get_terminal_size(2).columns
    return None

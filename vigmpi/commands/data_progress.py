import time

from vigmpi.monitor.activity import Activity
from vigmpi.standard_streams import show

_LINE_S = 5.0


class DataProgress:
    """Display of the check of a data set, if it takes long; the watchdog notices it, too.

    Args:
        shown: whether to show lines.
    """

    def __init__(self, activity: Activity, *, shown: bool) -> None:
        self._activity = activity
        self._shown = shown
        self._next = time.monotonic() + _LINE_S

    def __call__(self, done: int, total: int) -> None:
        """Show how many of `total` images are done; of how many is unknown if it is 0."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LINE_S
        self._activity.end(self._activity.begin("data"))
        if self._shown:
            show(
                f"data: {done:,} of {total:,} images checked\n"
                if total
                else f"data: {done:,} files listed\n"
            )

import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from vigmpi.phase import Phase
from vigmpi.standard_streams import show
from vigmpi.terminal.progress_bar import progress_bar

_LINE_S = 10.0
_LAUNCHERS = ("mpiexec", "mpirun", "prterun", "orterun", "hydra")


class Terminal:
    """Progress display of a run, written by one rank to standard error.

    Args:
        progress: auto, bar, lines or off.
    """

    def __init__(self, progress: str) -> None:
        if progress == "auto":
            progress = "bar" if _is_interactive() else "lines"
        self._progress = progress
        self._bar: tqdm | None = None

    def note(self, text: str) -> None:
        """Show a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.clear()
        show(f"{text}\n")
        if self._bar is not None:
            self._bar.refresh()

    def begin(self, phase: Phase, epoch: int, epochs: int, done: int, remaining: int) -> None:
        """Start the display of a phase with `done` completed and `remaining` mini-batches."""
        self._title = f"{phase:5} {epoch + 1}/{epochs}"
        self._first, self._step, self._steps = done, done, done + remaining
        self._num_images, self._loss, self._correct = 0, 0.0, 0.0
        self._started = self._last_line = time.monotonic()
        self._bar = progress_bar(
            total=self._steps,
            initial=done,
            desc=self._title,
            unit="step",
            disable=self._progress != "bar",
            bar_format="{desc} |{bar:24}| {n}/{total}{postfix}, {remaining} left",
            leave=False,
        )

    def step(self, num_images: int, loss: float, accuracy: float) -> None:
        """Show a completed mini-batch."""
        self._step += 1
        self._num_images += num_images
        self._loss += loss * num_images
        self._correct += accuracy * num_images
        now, done = time.monotonic(), self._step - self._first
        rate = self._num_images / (now - self._started)
        assert self._bar is not None
        self._bar.set_postfix_str(f"loss {loss:.4g}, {rate:.1f} images/s", refresh=False)
        self._bar.update()
        if self._progress == "lines" and (now - self._last_line > _LINE_S or done == 1):
            remaining_s = (now - self._started) / done * (self._steps - self._step)
            self._last_line = now
            show(
                f"{self._title}  step {self._step}/{self._steps}  loss {loss:.4g}  "
                f"{rate:.1f} images/s  {_minutes(remaining_s)} left\n",
                patience_s=0,
            )

    def end(self) -> None:
        """Show the summary of the phase."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
        if self._progress != "off" and self._num_images:
            self.note(
                f"{self._title}  done: loss {self._loss / self._num_images:.4g}, accuracy "
                f"{self._correct / self._num_images:.1%}, {self._num_images} images in "
                f"{_minutes(time.monotonic() - self._started)}"
            )


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _is_interactive() -> bool:
    """Return whether standard error is a terminal: the launcher's, because ranks write to pipes."""
    launcher = _launcher(os.getppid())
    if launcher is None:
        return sys.stderr.isatty()
    try:
        return str((Path("/proc") / str(launcher) / "fd/2").readlink()).startswith("/dev/pts/")
    except OSError:
        return False


def _launcher(pid: int) -> int | None:
    """Return the process ID of the outermost launcher among this process's ancestors."""
    launcher = None
    while pid > 1:
        try:
            stat = (Path("/proc") / str(pid) / "stat").read_text()
        except OSError:
            break
        name, _, rest = stat.partition("(")[2].rpartition(")")
        if name.startswith(_LAUNCHERS):
            launcher = pid
        pid = int(rest.split()[1])
    return launcher

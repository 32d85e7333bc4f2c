import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from vigmpi.phase import Phase

_LINE_S = 10.0
_LAUNCHERS = ("mpiexec", "mpirun", "prterun", "orterun", "hydra")


class Terminal:
    """What the person who started the run sees, written by one rank.

    Progress and notes go to standard error; the closing table, which is the result, to standard
    output.

    Args:
        progress: auto, bar, lines or off.
    """

    def __init__(self, progress: str) -> None:
        if progress == "auto":
            progress = "bar" if _on_a_terminal() else "lines"
        self._progress = progress

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def begin(self, phase: Phase, epoch: int, epochs: int, done: int, left: int) -> None:
        """Args: done, left: mini-batches of this phase before and from now on."""
        self._title = f"{phase:5} {epoch + 1}/{epochs}"
        self._first, self._step, self._steps, self._images = done, done, done + left, 0
        self._loss, self._correct = 0.0, 0.0
        self._started = self._said = time.monotonic()
        self._bar = tqdm(
            total=self._steps,
            initial=done,
            desc=self._title,
            unit="step",
            disable=self._progress != "bar",
            bar_format="{desc} |{bar:24}| {n}/{total}{postfix}, {remaining} left",
            leave=False,
        )

    def step(self, images: int, loss: float, accuracy: float) -> None:
        self._step += 1
        self._images += images
        self._loss += loss * images
        self._correct += accuracy * images
        now = time.monotonic()
        rate = self._images / (now - self._started)
        self._bar.set_postfix_str(f"loss {loss:.4g}, {rate:.1f} images/s", refresh=False)
        self._bar.update()
        if self._progress == "lines" and (
            now - self._said > _LINE_S or self._step == self._first + 1
        ):
            left = (now - self._started) / (self._step - self._first) * (self._steps - self._step)
            self._said = now
            self.note(
                f"{self._title}  step {self._step}/{self._steps}  loss {loss:.4g}  "
                f"{rate:.1f} images/s  {_minutes(left)} left"
            )

    def end(self) -> None:
        self._bar.close()
        if self._progress != "off" and self._images:
            self.note(
                f"{self._title}  done: loss {self._loss / self._images:.4g}, accuracy "
                f"{self._correct / self._images:.1%}, {self._images} images in "
                f"{_minutes(time.monotonic() - self._started)}"
            )


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _on_a_terminal() -> bool:
    """Whether a person watches: asked of the launcher, since ranks write into its pipes."""
    launcher = _launcher(os.getppid())
    if launcher is None:
        return sys.stderr.isatty()
    try:
        return str((Path("/proc") / str(launcher) / "fd/2").readlink()).startswith("/dev/pts/")
    except OSError:
        return False


def _launcher(pid: int) -> int | None:
    """The outermost launcher among this process's ancestors."""
    found = None
    while pid > 1:
        try:
            stat = (Path("/proc") / str(pid) / "stat").read_text()
        except OSError:
            break
        name, _, rest = stat.partition("(")[2].rpartition(")")
        if name.startswith(_LAUNCHERS):
            found = pid
        pid = int(rest.split()[1])
    return found

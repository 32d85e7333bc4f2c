"""Runs of a 2x2 layout in which one rank comes to harm at a chosen moment."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from tests.launching import ENVIRONMENT, ROOT, mpiexec
from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.manifest import Checkpoint

RANKS = 4
HEARTBEAT_TIMEOUT_S = 5
STALL_TIMEOUT_S = 8
LATE_S = 5.0  # for machines that have other things to do
_TIMEOUT_S = 150
_GONE_S = 3.0

# Seconds from a fault to the run's end.
DUE_S = {
    "stop": HEARTBEAT_TIMEOUT_S + 2,
    "lock": HEARTBEAT_TIMEOUT_S + 2,
    "loop": STALL_TIMEOUT_S + 3,
    "deadlock": STALL_TIMEOUT_S + 3,
}
AT_ONCE_S = 2.0

RUN = [
    *("--stages", "2", "--replicas", "2", "--chunks", "2", "--dataset", "synthetic"),
    *("--blocks", "2", "--batch-size", "4", "--epochs", "1", "--steps", "12", "--test-steps", "1"),
    *("--checkpoint-steps", "2", "--progress", "off"),
    *("--heartbeat-timeout", str(HEARTBEAT_TIMEOUT_S), "--stall-timeout", str(STALL_TIMEOUT_S)),
]

# Where each phase happens: an action's kind, the ranks that have it, how often there is one.
PHASES = {
    "forward": (["F"] * RANKS, range(RANKS), 16),
    "backward": (["B"] * RANKS, range(RANKS), 16),
    "exchange": (["rB", "rF"] * 2, range(RANKS), 16),
    "gradient sum": (["gradient sum"] * RANKS, range(RANKS), 8),
    "timings": (["timings"] * RANKS, range(RANKS), 8),
    "checkpoint": (["checkpoint"] * RANKS, range(RANKS), 4),
    "record": (["record"] * RANKS, range(1), 8),
}


class Drill(NamedTuple):
    """One fault.

    Attributes:
        kind: the action at whose `nth` time on `rank` the fault comes.
        delay_s: it comes so much later.
    """

    launcher: str
    fault: str
    rank: int
    phase: str
    kind: str
    nth: int
    delay_s: float

    def __str__(self) -> str:
        return f"{self.launcher}-{self.fault}-{self.rank}-{self.phase.replace(' ', '-')}-{self.nth}"


def drill(launcher: str, fault: str, rank: int, phase: str, moment: random.Random) -> Drill:
    kinds, _, times = PHASES[phase]
    first = 2 if phase == "checkpoint" else 1
    if fault in {"loop", "deadlock"}:
        first = 5  # not in the first mini-batch, whose kernels have more time
    by_a_signal = fault in {"kill", "stop"}
    delay_s = moment.uniform(0, 0.01) if by_a_signal else 0.0
    return Drill(launcher, fault, rank, phase, kinds[rank], moment.randint(first, times), delay_s)


def everywhere(launcher: str, faults: tuple[str, ...], seed: int) -> Iterator[Drill]:
    """Every phase on every rank, the faults by turns."""
    moment = random.Random(seed)
    for number, (phase, (_, ranks, _)) in enumerate(PHASES.items()):
        for rank in ranks:
            yield drill(launcher, faults[(number + rank) % len(faults)], rank, phase, moment)


@dataclass
class Outcome:
    """What became of a drill.

    Attributes:
        seconds: from the fault to the launcher's end.
        left: processes of it that were still there after that.
    """

    status: int
    seconds: float
    said: str
    left: list[int]
    record: Path
    checkpoints: Path

    @property
    def messages(self) -> list[str]:
        return re.findall(r"^vigmpi: error: .*", self.said, re.MULTILINE)

    def finished_mini_batches(self) -> int:
        """Of the record, all of them whole."""
        with h5py.File(self.record) as file:
            done = int(file.attrs["steps_done"])
            assert file["mini_batch"][:done].tolist() == list(range(done))
            assert np.isfinite(file["steps/loss"][:done]).all()
            assert (file["timings/step_s"][:done] > 0).all()
            assert file["timings/step_s"][:done].shape == (done, RANKS)
        return done

    def checkpoint(self) -> Checkpoint | None:
        """The newest, all of it compared with its digests."""
        with suppress(FileNotFoundError):
            return manifest.find("latest", self.checkpoints)
        return None


def run(
    planned: Drill,
    folder: Path,
    launcher: list[str] | None = None,
    environ: Mapping[str, str] = {},
    flags: Sequence[str] = (),
    python: str = sys.executable,
) -> Outcome:
    """Run it to its end.

    Args:
        launcher: with its arguments; None: `mpiexec`.
    """
    folder.mkdir()
    struck, record = folder / "struck", folder / "run.h5"
    about = {**planned._asdict(), "struck": str(struck)}
    arguments = ["-m", "vigmpi", *RUN, "--record", str(record), *flags]
    command = [*(launcher or mpiexec(RANKS)), python, *arguments]
    environment = {
        **os.environ,
        **ENVIRONMENT,
        **environ,
        "PYTHONPATH": f"{ROOT}/tests/faults/planted:{ROOT}",
        "VIGMPI_DRILL": json.dumps(about),
    }
    said = folder / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, text=True,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        status = process.wait(_TIMEOUT_S)
        ended = time.time()
    finally:
        left = _left(str(struck))
        for pid in {process.pid, *left}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert struck.exists(), f"the fault never came\n{said.read_text()}"
    seconds = ended - float(struck.read_text())
    return Outcome(status, seconds, said.read_text(), left, record, folder / "run.checkpoints")


def _left(token: str) -> list[int]:
    """Processes with this in their environment that do not go within a few seconds."""
    deadline = time.monotonic() + _GONE_S
    while (found := list(_with(token))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _with(token: str) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if token.encode() in (process / "environ").read_bytes():
                yield int(process.name)

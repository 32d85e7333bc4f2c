"""Runs of a 2x2 layout with a fault in one rank at a chosen moment."""

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
from tests.weights import verified_weights
from vigmpi.checkpoint.search import Checkpoint, find
from vigmpi.schedule.kinds import KINDS

RANKS = 4
HEARTBEAT_TIMEOUT_S = 5
STALL_TIMEOUT_S = 8
SLACK_S = 5.0  # for busy machines
_TIMEOUT_S = 150
_EXIT_S = 3.0

# Seconds from a fault to the end of the run; IMMEDIATE_S for all other faults.
DUE_S = {
    "stop": HEARTBEAT_TIMEOUT_S + 2,
    "gil": HEARTBEAT_TIMEOUT_S + 2,
    "loop": STALL_TIMEOUT_S + 3,
    "deadlock": STALL_TIMEOUT_S + 3,
}
IMMEDIATE_S = 2.0

# Part of the message about a fault.
DIAGNOSES = {
    "stop": " is stopped or holding the GIL in ",
    "gil": " is stopped or holding the GIL in ",
    "loop": " made no progress for ",
    "deadlock": " made no progress for ",
}

RUN = [
    *("--stages", "2", "--replicas", "2", "--chunks", "2", "--dataset", "synthetic"),
    *("--blocks", "2", "--batch-size", "4", "--epochs", "1", "--steps", "12", "--test-steps", "1"),
    *("--checkpoint-steps", "2", "--progress", "off"),
    *("--heartbeat-timeout", str(HEARTBEAT_TIMEOUT_S), "--stall-timeout", str(STALL_TIMEOUT_S)),
]

# For each phase: the kind of its action on each rank, the ranks that perform it, and how often.
PHASES = {
    "forward": (["F"] * RANKS, range(RANKS), 16),
    "backward": (["B"] * RANKS, range(RANKS), 16),
    "exchange": (["rB", "rF"] * 2, range(RANKS), 16),
    "gradient sum": (["R"] * RANKS, range(RANKS), 8),
    "timings": (["timings"] * RANKS, range(RANKS), 8),
    "checkpoint": (["checkpoint"] * RANKS, range(RANKS), 4),
    "record": (["record"] * RANKS, range(1), 8),
    "parts": (["parts"] * RANKS, range(RANKS), 400),
}
_PARTS = ("--stages", "1", "--parts", "2")  # of the runs with a fault in that phase


class Drill(NamedTuple):
    """Plan of one fault.

    Attributes:
        kind: the fault occurs when `rank` begins its `nth` action of this kind.
        delay_s: delay from then to the fault, in seconds.
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


def drill(launcher: str, fault: str, rank: int, phase: str, rng: random.Random) -> Drill:
    kinds, _, count = PHASES[phase]
    assert kinds[rank] in KINDS
    first = 2 if phase == "checkpoint" else 1
    if fault in {"loop", "deadlock"}:
        # After the first mini-batch, which has a longer stall timeout.
        first = 100 if phase == "parts" else 5
    is_signal = fault in {"kill", "stop"}
    delay_s = rng.uniform(0, 0.01) if is_signal else 0.0
    return Drill(launcher, fault, rank, phase, kinds[rank], rng.randint(first, count), delay_s)


def drills_of_all_phases(launcher: str, faults: tuple[str, ...], seed: int) -> Iterator[Drill]:
    """Yield a drill for each phase on each rank, with alternating faults."""
    rng = random.Random(seed)
    for number, (phase, (_, ranks, _)) in enumerate(PHASES.items()):
        for rank in ranks:
            yield drill(launcher, faults[(number + rank) % len(faults)], rank, phase, rng)


@dataclass
class Outcome:
    """Outcome of a drill.

    Attributes:
        seconds: from the fault to the launcher's exit.
        leftover_pids: the run's processes that were still alive after that.
    """

    status: int
    seconds: float
    output: str
    leftover_pids: list[int]
    record: Path
    checkpoints: Path

    @property
    def messages(self) -> list[str]:
        return re.findall(r"^vigmpi: error: .*", self.output, re.MULTILINE)

    def finished_mini_batches(self) -> int:
        """Return the number of mini-batches in the record after checking their rows."""
        with h5py.File(self.record) as file:
            done = int(file.attrs["steps_done"])
            assert file["mini_batch"][:done].tolist() == list(range(done))
            assert np.isfinite(file["steps/loss"][:done]).all()
            assert (file["timings/step_s"][:done] > 0).all()
            assert file["timings/step_s"][:done].shape == (done, RANKS)
        return done

    def checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint, verified with its digests, or None."""
        with suppress(FileNotFoundError):
            if found := find("latest", [self.checkpoints]):
                assert verified_weights(found.path)
                return found
        return None


def run(
    planned: Drill,
    folder: Path,
    launcher: list[str] | None = None,
    environ: Mapping[str, str] = {},
    flags: Sequence[str] = (),
    python: str = sys.executable,
) -> Outcome:
    """Run a drill to its end.

    Args:
        planned: the drill.
        folder: folder to create for the run's files.
        launcher: command with its arguments; None for `mpiexec`.
        environ: additional environment variables.
        flags: additional flags of vigmpi.
        python: the interpreter of the ranks.
    """
    folder.mkdir()
    fault_time, record = folder / "fault_time", folder / "run.h5"
    description = {**planned._asdict(), "fault_time": str(fault_time)}
    if planned.phase == "parts":
        flags = [*_PARTS, *flags]
    arguments = ["-m", "vigmpi", *RUN, "--record", str(record), *flags]
    command = [*(launcher or mpiexec(RANKS)), python, *arguments]
    environment = {
        **os.environ,
        **ENVIRONMENT,
        **environ,
        "PYTHONPATH": f"{ROOT}/tests/faults/planted:{ROOT}",
        "VIGMPI_DRILL": json.dumps(description),
    }
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, text=True,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        status = process.wait(_TIMEOUT_S)
        ended = time.time()
    finally:
        leftover_pids = _leftover_pids(str(fault_time))
        for pid in {process.pid, *leftover_pids}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    output_text = log.read_text()
    assert fault_time.exists(), f"the fault did not occur\n{output_text}"
    seconds = ended - float(fault_time.read_text())
    checkpoints = folder / "run.h5.checkpoints"
    return Outcome(status, seconds, output_text, leftover_pids, record, checkpoints)


def _leftover_pids(token: str) -> list[int]:
    """Return the processes with this environment that do not exit within a few seconds."""
    deadline = time.monotonic() + _EXIT_S
    while (pids := list(_pids_with(token))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return pids


def _pids_with(token: str) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if token.encode() in (process / "environ").read_bytes():
                yield int(process.name)

"""A rank that dies, stops or stalls ends the run, in time and with a message."""

import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.drill import (
    DIAGNOSES,
    DUE_S,
    IMMEDIATE_S,
    PHASES,
    SLACK_S,
    Drill,
    Outcome,
    drill,
    drills_of_all_phases,
    run,
)
from tests.launching import finish, start, vigmpi

CONCURRENT = 2  # while other tests run

# Number of rounds over all phases and ranks, each with other moments.
ROUNDS = int(os.environ.get("VIGMPI_DRILL_ROUNDS", "1"))


def _drills() -> Iterator[Drill]:
    for seed in range(ROUNDS):
        yield from drills_of_all_phases("mpiexec", ("kill", "stop"), seed)
        rng = random.Random(seed)
        for fault, rank, phase in (
            *(("raise", rank, phase) for rank, phase in enumerate(list(PHASES)[2:5])),
            *(("loop", rank, phase) for rank, phase in enumerate(list(PHASES)[:3])),
            *(("gil", 3 - rank, phase) for rank, phase in enumerate(list(PHASES)[2:4])),
            *(("deadlock", rank, "exchange") for rank in (0, 1)),
            ("loop", 2, "parts"),
            ("raise", 0, "record"),
            ("raise", 3, "checkpoint"),
            ("memory", 2, "backward"),
            ("interrupt", 3, "forward"),
            ("exit", 1, "timings"),
        ):
            yield drill("mpiexec", fault, rank, phase, rng)


DRILLS = list(dict.fromkeys(_drills()))
FAST = {next(d for d in DRILLS if d.fault == f) for f in ("kill", "stop", "deadlock")}


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Drill, Future[Outcome]]]:
    """Yield the outcomes of the selected drills, which run a few at a time from now on."""
    folder = tmp_path_factory.mktemp("drills")
    callspecs = [getattr(item, "callspec", None) for item in request.session.items]
    selected = {spec.params.get("planned") for spec in callspecs if spec}
    with ThreadPoolExecutor(CONCURRENT) as pool:
        yield {
            planned: pool.submit(run, planned, folder / str(planned))
            for planned in DRILLS
            if planned in selected
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.turn(1)
@pytest.mark.usefixtures("outcomes")
def test_there_are_enough_drills() -> None:
    assert len(DRILLS) >= 40


@pytest.mark.turn(3)
@pytest.mark.parametrize(
    "planned",
    [pytest.param(d, id=str(d), marks=[] if d in FAST else pytest.mark.slow) for d in DRILLS],
)
@pytest.mark.timeout(600)
def test_a_fault_on_a_rank_ends_the_run_and_loses_nothing(
    outcomes: dict[Drill, Future[Outcome]], planned: Drill
) -> None:
    outcome = outcomes[planned].result()
    _log_result(planned, outcome)
    assert_ended(planned, outcome)


def assert_ended(planned: Drill, outcome: Outcome) -> None:
    assert outcome.status != 0, outcome.output
    assert outcome.seconds < DUE_S.get(planned.fault, IMMEDIATE_S) + SLACK_S, outcome.output
    assert outcome.leftover_pids == []
    if planned.fault != "kill":  # MPICH's mpiexec may end the run before the message
        assert len(outcome.messages) == 1, outcome.output
    for message in outcome.messages:
        assert f"rank {planned.rank} (stage " in message
        assert DIAGNOSES.get(planned.fault, "") in message
    done = outcome.finished_mini_batches()
    latest = outcome.checkpoint()
    if planned.phase == "checkpoint":  # the fault is in the second one at the earliest
        assert latest
        assert done >= 2
    if latest:
        assert latest.manifest
        assert latest.manifest.position.mini_batches <= done


def _log_result(planned: Drill, outcome: Outcome) -> None:
    """Append a line of JSON to the file that VIGMPI_DRILL_RESULTS names, if any."""
    if path := os.environ.get("VIGMPI_DRILL_RESULTS"):
        result = {**planned._asdict(), "status": outcome.status, "seconds": outcome.seconds}
        with Path(path).open("a") as file:
            file.write(json.dumps({**result, "message": outcome.messages[:1]}) + "\n")


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_latest_checkpoint(tmp_path: Path) -> None:
    planned = drill("mpiexec", "kill", 2, "checkpoint", random.Random(0))
    outcome = run(planned, tmp_path / "killed")
    latest = outcome.checkpoint()
    assert latest
    assert latest.manifest
    layout = ["--stages", "1", "--replicas", "1", "--progress", "off"]
    command = vigmpi("--resume", str(outcome.checkpoints), *layout, "--record", "resumed.h5")
    done = finish(start(command, cwd=tmp_path), timeout=150)
    assert done.returncode == 0, done.stderr

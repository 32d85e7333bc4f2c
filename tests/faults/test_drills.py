"""A rank that dies, stops or runs astray ends the run, in time and with a message."""

import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.drill import (
    AT_ONCE_S,
    DUE_S,
    LATE_S,
    PHASES,
    Drill,
    Outcome,
    drill,
    everywhere,
    run,
)
from tests.launching import finish, start, vigmpi

AT_A_TIME = 2  # beside other tests

# A longer drill: so many rounds over all phases and ranks, each at other moments.
ROUNDS = int(os.environ.get("VIGMPI_DRILL_ROUNDS", "1"))


def _drills() -> Iterator[Drill]:
    for seed in range(ROUNDS):
        yield from everywhere("mpiexec", ("kill", "stop"), seed)
        moment = random.Random(seed)
        for fault, rank, phase in (
            *(("raise", rank, phase) for rank, phase in enumerate(list(PHASES)[2:5])),
            *(("loop", rank, phase) for rank, phase in enumerate(list(PHASES)[:3])),
            *(("lock", 3 - rank, phase) for rank, phase in enumerate(list(PHASES)[2:4])),
            *(("deadlock", rank, "exchange") for rank in (0, 1)),
            ("raise", 0, "record"),
            ("raise", 3, "checkpoint"),
            ("memory", 2, "backward"),
            ("interrupt", 3, "forward"),
            ("leave", 1, "timings"),
        ):
            yield drill("mpiexec", fault, rank, phase, moment)


DRILLS = list(dict.fromkeys(_drills()))


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Drill, Future[Outcome]]]:
    """Of the drills that this session has chosen; they start at once, several at a time."""
    folder = tmp_path_factory.mktemp("drills")
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    chosen = {call.params.get("planned") for call in calls if call}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {
            planned: pool.submit(run, planned, folder / str(planned))
            for planned in DRILLS
            if planned in chosen
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.turn(1)
@pytest.mark.usefixtures("outcomes")
def test_there_are_enough_drills() -> None:
    assert len(DRILLS) >= 40


@pytest.mark.turn(3)
@pytest.mark.parametrize("planned", DRILLS, ids=str)
@pytest.mark.timeout(600)
def test_a_fault_on_a_rank_ends_the_run_and_loses_nothing(
    outcomes: dict[Drill, Future[Outcome]], planned: Drill
) -> None:
    outcome = outcomes[planned].result()
    _tell(planned, outcome)
    assert_ended(planned, outcome)


def assert_ended(planned: Drill, outcome: Outcome) -> None:
    assert outcome.status != 0, outcome.said
    assert outcome.seconds < DUE_S.get(planned.fault, AT_ONCE_S) + LATE_S, outcome.said
    assert outcome.left == []
    if planned.fault != "kill":  # of which MPICH's launcher learns before any rank
        assert len(outcome.messages) == 1, outcome.said
    for message in outcome.messages:
        assert f"rank {planned.rank} (stage " in message
    done = outcome.finished_mini_batches()
    found = outcome.checkpoint()
    if planned.phase == "checkpoint":  # its second at the soonest
        assert found
        assert done >= 2
    if found:
        assert found.manifest
        assert found.manifest.position.mini_batches <= done


def _tell(planned: Drill, outcome: Outcome) -> None:
    """Where VIGMPI_DRILL_RESULTS names a file, add a line of JSON to it."""
    if path := os.environ.get("VIGMPI_DRILL_RESULTS"):
        about = {**planned._asdict(), "status": outcome.status, "seconds": outcome.seconds}
        with Path(path).open("a") as file:
            file.write(json.dumps({**about, "message": outcome.messages[:1]}) + "\n")


def test_the_latest_checkpoint_goes_on_after_a_kill(tmp_path: Path) -> None:
    planned = drill("mpiexec", "kill", 2, "checkpoint", random.Random(0))
    outcome = run(planned, tmp_path / "killed")
    found = outcome.checkpoint()
    assert found
    assert found.manifest
    layout = ["--stages", "1", "--replicas", "1", "--progress", "off"]
    command = vigmpi("--resume", str(outcome.checkpoints), *layout, "--record", "on.h5")
    done = finish(start(command, cwd=tmp_path), timeout=150)
    assert done.returncode == 0, done.stderr

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from tests.launching import steps_done
from vigmpi.cli.config import RunConfig
from vigmpi.commands.rank_group import RankGroup, RankLoss
from vigmpi.commands.run import open_run
from vigmpi.commands.run_log import RunLog
from vigmpi.errors import RunError
from vigmpi.host import resident_bytes
from vigmpi.monitor.activity import Activity
from vigmpi.pipeline.trainer import Trainer, TrainerConfig
from vigmpi.position import Position
from vigmpi.record.step_record import StepRecord


def test_values_of_surviving_ranks_keep_their_initial_positions() -> None:
    config = RunConfig(stages=2, replicas=1)
    group = RankGroup(MPI.COMM_SELF, config, [2, 3], 6, rank_losses=[RankLoss(4, [0, 1, 4, 5])])
    expanded = group.expand_to_initial_ranks(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert expanded[2:4].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert np.isnan(expanded[[0, 1, 4, 5]]).all()
    assert group.initial_config.replicas == 3


def test_a_report_is_freed_with_its_group(tmp_path: Path) -> None:
    """A run that continues without lost ranks makes a new one, with a new model."""
    config = RunConfig(dataset="synthetic", batch_size=4, blocks=1, record=tmp_path / "a.h5")
    group = RankGroup.of_world(MPI.COMM_SELF, config)
    run = open_run(group, Activity(0), training=True)
    trainer = Trainer(run.pipeline, TrainerConfig())
    log = RunLog(group, run, Position())
    log.open()
    log.begin_phase(Position())
    log.add(trainer.step(next(run.loader.batches(Position()))))
    log.close()
    references = [weakref.ref(each) for each in (run.pipeline.model, trainer, log, log._report)]
    del run, trainer, log
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_mini_batches(tmp_path: Path) -> None:
    record = tmp_path / "a.h5"
    config = RunConfig(dataset="synthetic", blocks=1, progress="off", record=record)
    group = RankGroup.of_world(MPI.COMM_SELF, config)
    run = open_run(group, Activity(0), training=True)
    log = RunLog(group, run, Position())
    log.open()
    log.begin_phase(Position())
    own = StepRecord.begin(run.loader.load(Position(), np.arange(4)), 2)
    own.ranks["timings"] = 1e-3
    resident = []
    for number in range(50_000):
        log.add(own)
        if number % 10_000 == 9_999:
            resident.append(resident_bytes())
    log.close()
    assert steps_done(record) == 50_000
    assert resident[-1] - resident[2] < 4 * 2**20  # until then, HDF5 fills its caches


def test_two_mpi_failures_in_one_mini_batch_without_a_lost_rank_end_the_run() -> None:
    group = RankGroup.of_world(MPI.COMM_SELF, RunConfig(stages=1, replicas=1))
    survivors = group.survivors(Activity(0), "a reason")
    assert survivors
    assert survivors.rank_losses == [RankLoss(0, [])]
    assert survivors.config == group.config
    with pytest.raises(RunError, match=r"failed twice .*: a reason\. Use --resume latest\.$"):
        survivors.survivors(Activity(0), "a reason")

"""`vigmpi train`: training from a start position to the last epoch, a signal or a failure."""

import os
from contextlib import closing
from dataclasses import replace
from shlex import quote

from mpi4py import MPI

from vigmpi.checkpoint.loading import check_convolution
from vigmpi.checkpoint.starting import start_from
from vigmpi.cli.config import RunConfig
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.commands.best_checkpoint import BestCheckpoint
from vigmpi.commands.checkpoint_policy import CheckpointPolicy
from vigmpi.commands.rank_group import RankGroup, RanksLostError
from vigmpi.commands.run import Run, open_run
from vigmpi.commands.run_log import RunLog
from vigmpi.errors import InputError, RunError
from vigmpi.launch import restarted
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline.evaluator import Evaluator
from vigmpi.pipeline.trainer import Trainer, TrainerConfig
from vigmpi.position import Position
from vigmpi.stop_signal import StopSignal

_NOT_FINITE = "loss or gradients are not finite: epoch {}, step {}"
REQUEUE = 75  # exit status: stopped with a checkpoint before the last epoch


def train(group: RankGroup, activity: Activity, stop: StopSignal) -> int:
    """Train on all ranks and return the exit status.

    Raises:
        InputError: if the data, the checkpoint or the record cannot be used (on all ranks).
        RunError: if the run fails in a way that all ranks know of (on all ranks).
        RanksLostError: if MPI fails and the run continues without lost ranks (on all of them).
    """
    with group.recovering_from_mpi_errors():
        run = open_run(group, activity, training=True)
        trainer = Trainer(run.pipeline, _trainer_config(group.config))
        stop.listen(speaks=run.topology.world.rank == 0)
        log = RunLog(group, run, _start(group, run, trainer))
        try:
            return _finish(group, run, trainer, log, stop)
        except (MPI.Exception, RanksLostError):
            log.release_record()
            raise
        finally:
            log.release_lock()


def _trainer_config(config: RunConfig) -> TrainerConfig:
    return TrainerConfig(
        epochs=config.epochs,
        lr=config.lr,
        lr_schedule=config.lr_schedule,
        warm_up=config.warm_up,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        ema=config.ema,
        gradient_sum=config.gradient_sum,
        on_nonfinite=config.on_nonfinite,
    )


def _start(group: RankGroup, run: Run, trainer: Trainer) -> Position:
    """Load the state of this rank's stage, if there is any, and return the run's position."""
    if not group.committed:
        if group.config.start:
            check_convolution(group.config.start, run.model_config)
        start = start_from(group.config.start, run.topology, trainer.state())
        if group.config.resume and not start and not restarted(os.environ):
            raise InputError(
                f"no checkpoint found: --resume {group.config.resume}. Use --resume PATH, or omit "
                f"it to start a new run."
            )
        group.config = replace(group.config, start=start)
        if trainer.averages and not (start and start.continued and start.has_averages):
            trainer.averages.reset()
        return start.position if start else Position()
    position, state = group.committed
    trainer.load(state)
    return position


def _finish(group: RankGroup, run: Run, trainer: Trainer, log: RunLog, stop: StopSignal) -> int:
    """Train to the end, write the last checkpoint and return the exit status."""
    config, world = group.config, run.topology.world
    with closing(CheckpointPolicy(group, run, trainer, log)) as policy:
        log.open()  # only now, since the folder of checkpoints may be refused
        best = BestCheckpoint(policy, world, enabled=config.holdout > 0 and config.keep > 0)
        with progress_thread(world):
            position, failure = _train(group, run, trainer, log, policy, best, stop)
            difference = policy.difference or trainer.replica_difference()
            if not difference and position != policy.position:
                policy.save(position)
    if best.summary:
        log.note(best.summary)
    log.close(
        finished=position.epoch >= config.epochs and not (difference or policy.failure),
        replicas_bit_equal=not difference,
        checkpoints=policy.num_written,
        checkpoint_s=policy.seconds,
    )
    group.commit(position, trainer.stage_state)
    done = position.mini_batches
    if difference:
        raise RunError(
            f"replicas differ after mini-batch {done}: {difference}. "
            f"{_another_start(group, policy)} after a check of the hosts."
        )
    if failure:
        start = _another_start(group, policy)
        raise RunError(f"{failure}. {start} with --on-nonfinite skip, or with a lower --lr.")
    if policy.failure:
        raise RunError(policy.failure)
    if position.epoch >= config.epochs:
        return 0
    if not policy.latest:
        raise RunError("stopped by a signal: no new checkpoint. Start again with --keep 1 or more.")
    newest = quote(str(policy.latest))
    log.note(f"stopped by a signal: mini-batch {done}. Use --resume {newest} to continue.")
    return REQUEUE


def _another_start(group: RankGroup, policy: CheckpointPolicy) -> str:
    """Return what a user does to start from the newest checkpoint that there is."""
    start = group.config.start
    if newest := policy.folder if policy.latest else start and start.path:
        return f"Use --resume {quote(str(newest))}"
    return "Start again"


def _train(
    group: RankGroup,
    run: Run,
    trainer: Trainer,
    log: RunLog,
    policy: CheckpointPolicy,
    best: BestCheckpoint,
    stop: StopSignal,
) -> tuple[Position, str]:
    """Train to the last epoch, a signal on any rank or a failure; return position and failure."""
    config, position = group.config, log.start
    averaged = trainer.averages.model if trainer.averages else None
    steps = {Phase.TRAIN: trainer.step, Phase.TEST: Evaluator(run.pipeline, averaged).step}
    while position.epoch < config.epochs:
        log.begin_phase(position)
        best.begin(position)
        for pending in run.loader.batches(position):
            own = steps[position.phase](pending)
            record = log.add(own, stop=stop.received, checkpoint=policy.overdue())
            if not record.finite:
                failure = _NOT_FINITE.format(record.epoch + 1, record.step + 1)
                if config.on_nonfinite == "stop":
                    return position, failure
                log.warn_once(f"{failure}. Continuing with --on-nonfinite {config.on_nonfinite}.")
            best.add(record)
            after = position.after(record.num_images)
            group.commit(after, trainer.stage_state)
            position = after
            if record.ranks["stop"].any():
                return position, ""
            overdue = bool(record.ranks["checkpoint"][0])
            if policy.due(trained=position.phase is Phase.TRAIN, overdue=overdue):
                policy.save(position)
            if policy.difference:
                return position, ""
        log.end_phase()
        position = position.next_phase()
        best.save(position)
        if policy.difference:
            break
    return position, ""

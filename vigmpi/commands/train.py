"""`python -m vigmpi train`: from where a run starts to where it ends or is stopped."""

from mpi4py import MPI

from vigmpi.comm.agreement import everywhere
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.commands.row import Wishes
from vigmpi.commands.run import Run
from vigmpi.commands.saving import Saving
from vigmpi.commands.session import open_session, start_from
from vigmpi.config import RunConfig
from vigmpi.errors import RunError
from vigmpi.phase import Phase
from vigmpi.position import Position
from vigmpi.runtime.activity import Activity
from vigmpi.stop_signal import StopSignal

_NOT_FINITE = "loss or gradients are not finite: epoch {}, step {}"
REQUEUE = 75  # stopped with a checkpoint, and there is more to do


def train(config: RunConfig, world: MPI.Intracomm, activity: Activity, stop: StopSignal) -> int:
    """Run on every rank of a world that fits the layout; return the exit status.

    Raises:
        InputError, RunError: on all ranks alike.
    """
    session = open_session(config, world, activity)
    start = start_from(config.start, session)
    run = Run(config, session, start)
    saving = Saving(config, session, run)
    with progress_thread(session.topology.world):
        position, failure = _train(config, run, saving, start, stop)
        same = everywhere(session.topology.world, session.trainer.replicas_agree())
        if same and position != saving.position:
            saving.save(position)
    run.close(replicas_bit_equal=same, checkpoints=saving.written, checkpoint_s=saving.seconds)
    if not same:
        raise RunError("the replicas' weights or running statistics differ at the end")
    if failure or saving.failure:
        raise RunError(failure or saving.failure)
    if position.epoch >= config.epochs:
        return 0
    if not saving.latest:
        raise RunError("stopped by a signal, with no checkpoint since the start to go on from")
    run.note(f"stopped by a signal; type: --resume {saving.latest}, to go on")
    return REQUEUE


def _train(
    config: RunConfig, run: Run, saving: Saving, position: Position, stop: StopSignal
) -> tuple[Position, str]:
    """Go on until the last epoch, a signal on any rank, or a failure; say where, and which."""
    while position.epoch < config.epochs:
        phase = run.phase(position, lambda: Wishes(stop.received, saving.overdue()))
        for after, result, rows in phase:
            if not result.finite:
                failure = _NOT_FINITE.format(result.epoch + 1, result.step + 1)
                if config.on_nonfinite == "stop":
                    return position, (
                        f"{failure}; type: --resume {saving.folder} with --on-nonfinite skip, or "
                        f"with a lower --lr"
                    )
                run.warn_once(f"{failure} (--on-nonfinite {config.on_nonfinite})")
            position = after
            if rows.stop.any():
                return position, ""
            if saving.due(trained=result.phase is Phase.TRAIN, overdue=bool(rows.checkpoint[0])):
                saving.save(position)
        position = position.next_phase()
    return position, ""

"""`vigmpi train`: training from a start position to the last epoch, a signal or a failure."""

from mpi4py import MPI

from vigmpi.comm.collectives import all_ranks
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.comm.topology import make_topology
from vigmpi.commands.crew import Crew, RanksLostError
from vigmpi.commands.row import Requests
from vigmpi.commands.run import Run
from vigmpi.commands.saving import Saving
from vigmpi.commands.session import Session, open_session, start_from
from vigmpi.errors import RunError
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.position import Position
from vigmpi.stop_signal import StopSignal

_NOT_FINITE = "loss or gradients are not finite: epoch {}, step {}"
REQUEUE = 75  # exit status: stopped with a checkpoint before the last epoch


def train(crew: Crew, activity: Activity, stop: StopSignal) -> int:
    """Train on all ranks and return the exit status.

    Raises:
        InputError: if the data, the checkpoint or the record cannot be used (on all ranks).
        RunError: if the run fails in a way that all ranks know of (on all ranks).
        RanksLostError: if MPI fails and the run continues without lost ranks (on all of them).
    """
    with crew.recovering_from_mpi_errors():
        topology = make_topology(crew.world, crew.config.layout)
        crew.comms = topology.comms
        session = open_session(crew.config, topology, activity)
        start = _start(crew, session)
        run = Run(crew, session, start)
        try:
            return _run(crew, session, run, stop)
        except (MPI.Exception, RanksLostError):
            run.release_record()
            raise


def _start(crew: Crew, session: Session) -> Position:
    if not crew.committed:
        return start_from(crew.config.start, session)
    position, state = crew.committed
    session.trainer.load(state)
    return position


def _run(crew: Crew, session: Session, run: Run, stop: StopSignal) -> int:
    config, world = crew.config, session.topology.world
    saving = Saving(crew, session, run)
    with progress_thread(world):
        position, failure = _train(crew, session, run, saving, stop)
        equal = all_ranks(world, session.trainer.replicas_agree())
        if equal and position != saving.position:
            saving.save(position)
    run.close(replicas_bit_equal=equal, checkpoints=saving.num_written, checkpoint_s=saving.seconds)
    crew.commit(position, session.trainer.stage_state)
    done = position.mini_batches
    if not equal:
        raise RunError(
            f"replicas differ in weights or running statistics: mini-batch {done}. "
            f"Check the hosts, then use --resume {saving.folder}."
        )
    if failure or saving.failure:
        raise RunError(failure or saving.failure)
    if position.epoch >= config.epochs:
        return 0
    if not saving.latest:
        raise RunError("stopped by a signal: no new checkpoint. Start again with --keep 1 or more.")
    run.note(f"stopped by a signal: mini-batch {done}. Use --resume {saving.latest} to continue.")
    return REQUEUE


def _train(
    crew: Crew, session: Session, run: Run, saving: Saving, stop: StopSignal
) -> tuple[Position, str]:
    """Train to the last epoch, a signal on any rank or a failure; return position and failure."""
    config, position = crew.config, run.start
    while position.epoch < config.epochs:
        phase = run.phase(position, lambda: Requests(stop.received, saving.overdue()))
        for after, result, rows in phase:
            if not result.finite:
                failure = _NOT_FINITE.format(result.epoch + 1, result.step + 1)
                if config.on_nonfinite == "stop":
                    return position, (
                        f"{failure}. Use --resume {saving.folder} with --on-nonfinite skip, or "
                        f"with a lower --lr."
                    )
                run.warn_once(f"{failure}. Continuing with --on-nonfinite {config.on_nonfinite}.")
            crew.commit(after, session.trainer.stage_state)
            position = after
            if rows.stop.any():
                return position, ""
            if saving.due(trained=result.phase is Phase.TRAIN, overdue=bool(rows.checkpoint[0])):
                saving.save(position)
        position = position.next_phase()
    return position, ""

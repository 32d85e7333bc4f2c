"""`python -m vigmpi train`: from where a run starts to where it ends or is stopped."""

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
REQUEUE = 75  # stopped with a checkpoint, and there is more to do


def train(crew: Crew, activity: Activity, stop: StopSignal) -> int:
    """Run on every rank; return the exit status.

    Raises:
        InputError, RunError: on all ranks alike.
        RanksLostError: on all ranks of a crew that goes on without those that were lost.
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
            run.break_off()
            raise


def _start(crew: Crew, session: Session) -> Position:
    if not crew.committed:
        return start_from(crew.config.start, session)
    position, values = crew.committed
    session.trainer.load(values)
    return position


def _run(crew: Crew, session: Session, run: Run, stop: StopSignal) -> int:
    config, world = crew.config, session.topology.world
    saving = Saving(crew, session, run)
    with progress_thread(world):
        position, failure = _train(crew, session, run, saving, stop)
        same = all_ranks(world, session.trainer.replicas_agree())
        if same and position != saving.position:
            saving.save(position)
    run.close(replicas_bit_equal=same, checkpoints=saving.written, checkpoint_s=saving.seconds)
    crew.commit(position, session.trainer.whole_state)
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
    crew: Crew, session: Session, run: Run, saving: Saving, stop: StopSignal
) -> tuple[Position, str]:
    """Go on until the last epoch, a signal on any rank, or a failure; say where, and which."""
    config, position = crew.config, run.start
    while position.epoch < config.epochs:
        phase = run.phase(position, lambda: Requests(stop.received, saving.overdue()))
        for after, result, rows in phase:
            if not result.finite:
                failure = _NOT_FINITE.format(result.epoch + 1, result.step + 1)
                if config.on_nonfinite == "stop":
                    return position, (
                        f"{failure}; type: --resume {saving.folder} with --on-nonfinite skip, or "
                        f"with a lower --lr"
                    )
                run.warn_once(f"{failure} (--on-nonfinite {config.on_nonfinite})")
            crew.commit(after, session.trainer.whole_state)
            position = after
            if rows.stop.any():
                return position, ""
            if saving.due(trained=result.phase is Phase.TRAIN, overdue=bool(rows.checkpoint[0])):
                saving.save(position)
        position = position.next_phase()
    return position, ""

"""`python -m vigmpi evaluate`: loss and accuracy of a trained model on test images."""

from dataclasses import replace

from mpi4py import MPI

from vigmpi.comm.progress_thread import progress_thread
from vigmpi.commands.run import Run
from vigmpi.commands.session import open_session, start_from
from vigmpi.config import RunConfig
from vigmpi.phase import Phase
from vigmpi.position import Position
from vigmpi.runtime.activity import Activity


def evaluate(config: RunConfig, world: MPI.Intracomm, activity: Activity) -> int:
    """Run on every rank of a world that fits the layout; return the exit status.

    Raises:
        InputError: on all ranks alike.
    """
    config = replace(config, epochs=1)
    session = open_session(config, world, activity)
    start_from(config.start, session)
    start = Position(phase=Phase.TEST)
    run = Run(config, session, start)
    loss = correct = images = 0.0
    with progress_thread(session.topology.world):
        for _, result, rows in run.phase(start):
            loss += rows.loss.sum() * result.images
            correct += rows.correct.sum()
            images += result.images
    run.close()
    if session.topology.world.rank == 0:
        print(f"loss {loss / images:.6g}, accuracy {correct / images:.2%} of {images:.0f} images")
    return 0

"""`vigmpi evaluate`: loss and accuracy of a trained model on the test images."""

from dataclasses import replace

from vigmpi.comm.progress_thread import progress_thread
from vigmpi.comm.topology import make_topology
from vigmpi.commands.crew import Crew
from vigmpi.commands.run import Run
from vigmpi.commands.session import open_session, start_from
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.position import Position


def evaluate(crew: Crew, activity: Activity) -> int:
    """Evaluate on all ranks and return the exit status.

    Raises:
        InputError: if the checkpoint or the data cannot be used (on all ranks).
    """
    crew = replace(crew, config=replace(crew.config, epochs=1))
    session = open_session(crew.config, make_topology(crew.world, crew.config.layout), activity)
    start_from(crew.config.start, session)
    start = Position(phase=Phase.TEST)
    run = Run(crew, session, start)
    loss = correct = num_images = 0.0
    with progress_thread(session.topology.world):
        for _, result, rows in run.phase(start):
            loss += rows.loss.sum() * result.num_images
            correct += rows.correct.sum()
            num_images += result.num_images
    run.close()
    if session.topology.world.rank == 0:
        accuracy = f"accuracy {correct / num_images:.2%} on {num_images:.0f} images"
        print(f"loss {loss / num_images:.6g}, {accuracy}")
    return 0

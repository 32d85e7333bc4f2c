"""`vigmpi evaluate`: loss and accuracy of a trained model on the test images."""

from dataclasses import replace

from vigmpi.checkpoint.loading import check_configuration
from vigmpi.checkpoint.starting import start_from
from vigmpi.comm.collectives import allgather_strings
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.commands.rank_group import RankGroup
from vigmpi.commands.run import open_run
from vigmpi.commands.run_log import RunLog
from vigmpi.errors import RunError
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline.evaluator import Evaluator
from vigmpi.position import Position
from vigmpi.standard_streams import print_result
from vigmpi.stop_signal import StopSignal


def evaluate(group: RankGroup, activity: Activity, stop: StopSignal) -> int:
    """Evaluate on all ranks and return the exit status.

    Raises:
        InputError: if the checkpoint or the data cannot be used (on all ranks).
        RunError: if it is stopped by a signal, or if the result cannot be written (on all ranks).
    """
    group = replace(group, config=replace(group.config, epochs=1))
    run = open_run(group, activity, training=False)
    evaluator = Evaluator(run.pipeline)
    checkpoint = start_from(group.config.start, run.topology, evaluator.state())
    if checkpoint:
        # Another image size or readout changes no tensor, but is another function.
        check_configuration(checkpoint, group.config.model, run.model_config)
    group.config = replace(group.config, start=checkpoint)
    start = Position(phase=Phase.TEST)
    stop.listen(speaks=run.topology.world.rank == 0)
    log = RunLog(group, run, start)
    log.open()
    loss = 0.0
    correct = num_images = 0
    with progress_thread(run.topology.world):
        log.begin_phase(start)
        for pending in run.loader.batches(start):
            record = log.add(evaluator.step(pending), stop=stop.received)
            if record.ranks["stop"].any():
                log.discard()
                raise RunError("evaluation stopped by a signal: no result. Start it again.")
            loss += record.loss * record.num_images
            correct += record.correct
            num_images += record.num_images
        log.end_phase()
    log.close()
    accuracy = f"accuracy {correct / num_images:.2%} on {num_images} images"
    problem = ""
    if run.topology.world.rank == 0:
        try:
            print_result(f"loss {loss / num_images:.6g}, {accuracy}")
        except RunError as error:
            problem = str(error)
    if problem := allgather_strings(run.topology.world, problem)[0]:
        raise RunError(problem)
    return 0

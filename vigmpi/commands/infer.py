"""`vigmpi infer`: a trained model on a stream of requests, as a pipeline of forward passes."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from vigmpi.checkpoint.loading import check_configuration
from vigmpi.checkpoint.starting import start_from
from vigmpi.checkpoint.state import state_by_layer
from vigmpi.cli.config import InferConfig
from vigmpi.comm.clock import compare_clocks
from vigmpi.comm.collectives import (
    allgather_bytes,
    allgather_rows,
    allgather_strings,
    gather_arrays,
)
from vigmpi.comm.collectives import raise_collectively as together
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.comm.stream import AnswerReceiver, StreamReceiver
from vigmpi.comm.topology import Topology, make_topology
from vigmpi.commands.image_arrays import ImageArray, read_arrivals, save_array
from vigmpi.commands.rank_group import RankGroup
from vigmpi.commands.run_layers import build_stage, choose_library, divide_layers, make_run_layers
from vigmpi.commands.threads import set_threads
from vigmpi.commands.trained_model import class_names, normalization
from vigmpi.datasets.file_tree import printable
from vigmpi.errors import InputError, RunError
from vigmpi.models.config import ModelConfig
from vigmpi.models.model import Model
from vigmpi.monitor.activity import Activity
from vigmpi.pipeline.inference import MessageSource, RequestSource, Served, serve, warm_up
from vigmpi.pipeline.requests import Requests
from vigmpi.standard_streams import print_result, show
from vigmpi.stop_signal import StopSignal

_MAX_MESSAGE_BYTES = 2**31 - 1
_LEAD_S = 0.01  # all ranks know the start before it comes


def infer(group: RankGroup, activity: Activity, stop: StopSignal) -> int:
    """Answer all requests on all ranks and return the exit status.

    Raises:
        InputError: if the checkpoint, the images or the arrivals cannot be used (on all ranks).
        RunError: if the results cannot be written (on all ranks).
    """
    stop.disarm()  # there is nothing to save
    topology = make_topology(group.world, group.config.layout)
    model = _open_model(group, topology, activity)
    config, world = group.config, topology.world
    assert isinstance(config, InferConfig)
    with together(world):
        if world.rank == 0:
            _check_outputs(config)
        _check_batch(config, model)
    images = _open_images(config, topology, model)
    arrivals = _arrivals(config, topology, images)
    num_requests = len(arrivals)
    keeps_logits = config.output is not None or config.times is None
    warm_up(model, config.batch_size)
    source = _source(config, topology, model, images, arrivals, activity)
    with progress_thread(world):
        clock = _shared_clock(topology)
        arguments = topology, model, source, config.batch_size, clock, activity
        served = serve(*arguments, keeps_logits=keeps_logits)
        seconds = allgather_rows(world, np.array([clock()])).max()
        logits = _collect_logits(topology, model, served, num_requests) if keeps_logits else None
        times = _collect_times(topology, served, num_requests) if config.times else None
    problem = ""
    if world.rank == 0:
        try:
            _write(config, logits, times)
        except RunError as error:
            problem = str(error)
        show(
            f"{num_requests} images in {seconds:.3f} s: {num_requests / seconds:.1f} images/s on "
            f"{config.stages} stages x {config.replicas} replicas\n"
        )
    if problem := allgather_strings(world, problem)[0]:
        raise RunError(problem)
    return 0


def _open_model(group: RankGroup, topology: Topology, activity: Activity) -> Model:
    """Build the layers of this rank and load their weights. Collective."""
    group.comms = topology.comms
    threads = set_threads(group.config, topology)
    if threads.warning and topology.world.rank == 0:
        show(f"{threads.warning}\n")
    group.config = config = choose_library(group.config, topology)
    trained = ModelConfig()  # of a file of the study's weights
    if config.start and config.start.manifest:
        trained = config.start.manifest.model_config
    model_config = ModelConfig(trained.num_classes, trained.image_size, **config.model_options)
    layers = make_run_layers(config, model_config, topology, activity)
    pipeline_config = divide_layers(group, layers, topology, training=False)
    model, _ = build_stage(topology, pipeline_config, layers, averages=False)
    checkpoint = start_from(config.start, topology, state_by_layer(model))
    if checkpoint:
        # Another readout changes no tensor, but is another function.
        check_configuration(checkpoint, config.model, model_config)
        if topology.world.rank == 0:
            for reason in checkpoint.skipped:
                show(f"vigmpi: warning: checkpoint skipped: {reason}.\n")
            for note in checkpoint.notes:
                show(f"note: {note}.\n")
    group.config = replace(group.config, start=checkpoint)
    return model


def _check_outputs(config: InferConfig) -> None:
    outputs = [path for path in (config.output, config.times) if path]
    unfinished = [path.with_name(f"{path.name}.part") for path in outputs]
    files = (*outputs, *unfinished, config.images, config.arrivals)
    used = [os.path.realpath(path) for path in files if path]
    for path, part in zip(outputs, unfinished, strict=True):
        if max(used.count(os.path.realpath(each)) for each in (path, part)) > 1:
            raise InputError(f"two uses of one file: {path}. Use another path for the output.")
        save_array(path, None)


def _check_batch(config: InferConfig, model: Model) -> None:
    """Raise InputError if a message would hold more bytes than MPI counts."""
    boundaries = model.layers[0].inputs, model.layers[-1].outputs
    if config.batch_size * max(each.image_bytes for each in boundaries) > _MAX_MESSAGE_BYTES:
        raise InputError(
            f"batch too large: --batch-size {config.batch_size}. Use a smaller one, since a "
            f"message holds at most 2^31 bytes."
        )


def _open_images(config: InferConfig, topology: Topology, model: Model) -> ImageArray | None:
    """Return the images on the first stages, which read them. Collective."""
    images = None
    with together(topology.world):
        if topology.place.stage == 0:
            assert config.images
            assert config.start
            normalize = normalization(config.start.manifest)
            images = ImageArray(config.images, model.layers[0].inputs.shape, normalize)
    numbers = allgather_rows(topology.replicas, np.array([len(images) if images else 0]))
    with together(topology.world):
        if (numbers != numbers[0]).any():
            raise InputError(
                f"images differ between ranks: {config.images}. Use the same file on all hosts."
            )
    return images


def _arrivals(config: InferConfig, topology: Topology, images: ImageArray | None) -> np.ndarray:
    """Return the arrivals of all requests, which rank 0 reads, [requests]. Collective.

    Those of a closed loop are NaN but for the first ones of each replica.
    """
    arrivals = np.empty(0)
    with together(topology.world):
        if topology.world.rank == 0:
            assert images is not None
            if config.arrivals:
                arrivals = read_arrivals(config.arrivals)
            else:
                arrivals = np.zeros(config.requests or len(images))
            if config.in_flight:
                arrivals[config.in_flight * config.replicas :] = np.nan
            if len(arrivals) and not len(images):
                raise InputError(f"no images: {config.images} is empty. Use at least one.")
    return np.frombuffer(allgather_bytes(topology.world, arrivals.tobytes())[0])


def _source(
    config: InferConfig,
    topology: Topology,
    model: Model,
    images: ImageArray | None,
    arrivals: np.ndarray,
    activity: Activity,
) -> RequestSource | MessageSource:
    inputs, comm, place = model.layers[0].inputs, topology.pipeline, topology.place
    if images is None:
        shape, dtype = inputs.memory_shape, inputs.numpy_dtype
        up = topology.previous_stage
        return MessageSource(StreamReceiver(comm, up, shape, dtype, config.batch_size))
    numbers = range(place.replica, len(arrivals), config.replicas)
    own = arrivals[place.replica :: config.replicas]
    known = own[~np.isnan(own)].tolist()
    requests = Requests(known, len(own), config.batch_size, config.batch_wait_ms / 1000)
    answers = AnswerReceiver(comm, comm.size - 1) if comm.size > 1 else None

    def load(batch: range) -> np.ndarray:
        return images[numbers[batch.start : batch.stop]]

    def waiting() -> None:
        with activity("data"):  # the watchdog sees that this rank is alive
            pass

    return RequestSource(requests, load, answers, waiting)


def _shared_clock(topology: Topology) -> Callable[[], float]:
    """Return a clock that all ranks share, once it shows 0. Collective."""
    offset = compare_clocks(topology.world).offset[topology.world.rank]
    start = allgather_rows(topology.world, np.array([time.perf_counter() + _LEAD_S]))[0, 0] + offset
    time.sleep(max(0.0, start - time.perf_counter()))
    return partial(_seconds_since, start)


def _seconds_since(start: float) -> float:
    return time.perf_counter() - start


def _collect_logits(
    topology: Topology, model: Model, served: Served, num_requests: int
) -> np.ndarray | None:
    """Return the logits of all requests on rank 0, [requests, classes]. Collective."""
    own = np.concatenate([*served.logits, np.empty(0, np.float32)], axis=None)
    values = np.array([math.prod(model.layers[-1].outputs.shape)])
    classes = int(allgather_rows(topology.pipeline, values)[-1, 0])
    gathered = gather_arrays(topology.world, own)
    if gathered is None:
        return None
    logits = np.empty((num_requests, classes), np.float32)
    for replica, ranks in enumerate(_ranks_by_replica(topology)):
        logits[replica :: topology.replicas.size] = gathered[ranks[-1]].reshape(-1, classes)
    return logits


def _collect_times(topology: Topology, served: Served, num_requests: int) -> np.ndarray | None:
    """Return arrivals and spans on rank 0, [requests, 1 + 2 stages]. Collective."""
    begin, end, counts = np.array(served.spans).reshape(-1, 3).T
    repeats = counts.astype(int)
    columns = [np.array(served.arrivals), np.repeat(begin, repeats), np.repeat(end, repeats)]
    gathered = [gather_arrays(topology.world, column) for column in columns]
    if topology.world.rank > 0:
        return None
    replicas, stages = topology.replicas.size, topology.pipeline.size
    times = np.empty((num_requests, 1 + 2 * stages))
    arrivals, begins, ends = (column or [] for column in gathered)
    for replica, ranks in enumerate(_ranks_by_replica(topology)):
        rows = times[replica::replicas]
        rows[:, 0] = arrivals[ranks[0]]
        for stage, rank in enumerate(ranks):
            rows[:, 1 + 2 * stage], rows[:, 2 + 2 * stage] = begins[rank], ends[rank]
    return times


def _ranks_by_replica(topology: Topology) -> np.ndarray:
    """Return the ranks of all stages, [replicas, stages]."""
    shape = topology.replicas.size, topology.pipeline.size
    return np.arange(topology.world.size).reshape(shape)


def _write(config: InferConfig, logits: np.ndarray | None, times: np.ndarray | None) -> None:
    """Write what was asked for, or print a table.

    Raises:
        RunError: if it cannot be written.
    """
    problems = []
    for path, array in ((config.output, logits), (config.times, times)):
        if path and array is not None:
            try:
                save_array(path, array)
            except InputError as error:
                problems.append(str(error))
    if problems:
        raise RunError(" ".join(problems))
    if config.output or config.times or logits is None:
        return
    assert config.start
    names = class_names(config.start.manifest)
    for number, row in enumerate(logits.astype(float)):
        shares = np.exp(row - row.max())
        best = int(row.argmax())
        print_result(f"{number}  {printable(names[best])}  {1 / shares.sum():.1%}")

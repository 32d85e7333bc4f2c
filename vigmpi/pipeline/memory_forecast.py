from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vigmpi.comm.collectives import allgather_rows, allgather_strings
from vigmpi.comm.topology import Topology
from vigmpi.comm.waiting import wait
from vigmpi.errors import InputError
from vigmpi.host import (
    HOST,
    available_bytes,
    memory_limits,
    process_headroom_bytes,
    release_free_memory,
    resident_bytes,
)
from vigmpi.models.activation_memory import ActivationMemory, activation_memory
from vigmpi.models.allocation import not_enough_memory
from vigmpi.models.layer import Layer
from vigmpi.models.model import Model
from vigmpi.pipeline.pipeline import PipelineConfig

# The loader reads the next mini-batch's images while the current ones are still in memory.
_LOADED_BATCHES = 2
_FRAGMENTATION = 1.05  # of the heap by tapes: the runs of the tests are then within 15 %
_FIRST_STEP_BYTES = 40 * 2**20  # allocated by libraries and MPI on first use (measured)


_LEAST_IMAGES = 2  # of `activation_memory`, and most models train on no fewer
_LARGE_PIXELS = 2**16  # above which activations are measured on smaller images


class Forecast(NamedTuple):
    """Bytes at the peak of a step.

    Attributes:
        rank: those of this rank.
        shared: those of all ranks that share the tightest limit: the host's, or a control group's.
        available: what this limit leaves to them.
        place: "on this host" or "in this control group".
    """

    rank: int
    shared: int
    available: int
    place: str


def forecast_memory(
    topology: Topology,
    config: PipelineConfig,
    model: Model,
    *,
    averages: bool = False,
    check: bool = True,
) -> Forecast:
    """Forecast the memory of a full mini-batch's step before the first. Collective over the host.

    In training, a stage keeps the tapes of as many micro-batches as its program has in flight; one
    of them is at work.

    Args:
        averages: whether the training keeps moving averages of the weights.
        check: whether to raise an error if the memory does not suffice.

    Raises:
        InputError: if the host, a control group or the limits of a rank leave less memory than the
            step needs; the message names the batch size that fits (on this rank).
    """
    tape = _measured(topology, model)
    trainable = sum(p.nbytes for _, p in model.trainable_parameters())
    copies = _copies(config, averages=averages) * trainable
    return _forecast(topology, config, tape, copies, check=check)


def forecast_large_images(
    topology: Topology,
    config: PipelineConfig,
    smaller: list[Layer],
    *,
    averages: bool = False,
    check: bool = True,
) -> Forecast:
    """Forecast as `forecast_memory` does, but before the model is built. Collective over the host.

    The activations are measured on smaller images, and assumed to grow with the number of pixels.

    Args:
        smaller: layers of the same model for images of `measured_size`.

    Raises:
        InputError: as `forecast_memory`.
    """
    stage = topology.place.stage
    own = config.stages[stage]
    tape = _measured(topology, Model(smaller[own.start : own.stop]))
    ratio = config.layers[0].inputs.image_bytes / smaller[0].inputs.image_bytes
    scaled = (int(ratio * tape.image), int(ratio * tape.layer_image), int(ratio * tape.peak_image))
    weights, trainable = _parameter_bytes(config.stage_layers(stage))
    fixed = weights + _copies(config, averages=averages) * trainable
    return _forecast(topology, config, ActivationMemory(tape.fixed, *scaled), fixed, check=check)


def measured_size(image_size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the size of the images on which the activations are measured.

    Args:
        multiple: number of pixels of which height and width are multiples.
    """
    height, width = image_size
    scale = min(1.0, (_LARGE_PIXELS / (height * width)) ** 0.5)
    if scale == 1.0:
        return image_size
    smaller = [multiple * max(1, int(scale * side) // multiple) for side in (height, width)]
    return smaller[0], smaller[1]


def _measured(topology: Topology, model: Model) -> ActivationMemory:
    """Measure the activations; the first rank of the host compiles the kernels for the others."""
    if topology.host.rank > 0:
        wait(topology.host.Ibarrier())
    try:
        return activation_memory(model)
    finally:
        release_free_memory()
        if topology.host.rank == 0:
            wait(topology.host.Ibarrier())


def _copies(config: PipelineConfig, *, averages: bool) -> int:
    """Return how many arrays training adds to the weights: gradients, Adam's moments, averages."""
    return (4 if averages else 3) if config.schedule else 0


def _parameter_bytes(layers: Sequence[Layer]) -> tuple[int, int]:
    """Return the bytes of all parameters and of the trainable ones, without building them."""
    with torch.device("meta"):
        parameters = [p for layer in layers for p in layer.build().parameters()]
    return sum(p.nbytes for p in parameters), sum(p.nbytes for p in parameters if p.requires_grad)


def _forecast(
    topology: Topology,
    config: PipelineConfig,
    tape: ActivationMemory,
    weights: int,
    *,
    check: bool,
) -> Forecast:
    """Compare what the ranks of this host will need with what there is. Collective over the host.

    A limit of a control group counts for the ranks that share it, a limit of the host for all.

    Args:
        weights: bytes of parameters and their copies that are still to be allocated.
    """
    stage, sizes = topology.place.stage, config.max_sizes(topology.place.replica)
    growing = _growing_bytes(config, stage, sizes, tape)
    fixed, resident = _FIRST_STEP_BYTES + weights, resident_bytes()
    fixed += tape.fixed * config.peak_in_flight(stage)

    rows = allgather_rows(topology.host, np.array([growing, fixed, resident]))
    limits = memory_limits()
    groups = [text.split() for text in allgather_strings(topology.host, " ".join(limits))]

    def shared(limit: str) -> NDArray[np.float64]:
        """Return the growing, fixed and resident bytes of all ranks under a limit."""
        sums: NDArray[np.float64] = rows[[limit in names for names in groups]].sum(axis=0)
        return sums

    tightest = min(limits, key=lambda limit: limits[limit] - shared(limit)[:2].sum())
    all_growing, all_fixed, all_resident = shared(tightest)
    available = all_resident + limits[tightest]
    place = "on this host" if tightest == HOST else "in this control group"
    needed = int(all_growing + all_fixed + all_resident)
    forecast = Forecast(int(growing + fixed + resident), needed, int(available), place)
    if not check:
        return forecast
    if needed > available:
        room = max(0.0, limits[tightest] - all_fixed)
        where = f"{place.replace('this', 'a')} with {_gib(available)} available"
        raise _too_large(config, needed, where, room / all_growing)
    if growing + fixed > (limit := process_headroom_bytes()):
        where = f"on a rank whose limits (ulimit -v and -d) leave {_gib(limit)}"
        raise _too_large(config, growing + fixed, where, max(0.0, limit - fixed) / growing)
    return forecast


def check_least_memory(config: PipelineConfig, stage: int, subject: str) -> None:
    """Refuse a model before it is built if its weights and two images need more than there is.

    Args:
        subject: the options that determine the size of the model.

    Raises:
        InputError: if they need more.
    """
    layers = config.stage_layers(stage)
    weights, trainable = _parameter_bytes(layers)
    weights += _copies(config, averages=False) * trainable
    largest = max(layer.inputs.image_bytes + layer.outputs.image_bytes for layer in layers)
    images = min(_LEAST_IMAGES, config.batch_size)
    needed = weights + images * (2 if config.schedule else 1) * largest
    if needed > (limit := min(available_bytes(), process_headroom_bytes())):
        available = f"at least {_gib(needed)} are needed, and {_gib(limit)} available"
        raise not_enough_memory(subject, available)


def _growing_bytes(
    config: PipelineConfig, stage: int, sizes: list[int], tape: ActivationMemory
) -> int:
    """Return the bytes that grow with the number of images."""
    inputs = config.stage_layers(stage)[0].inputs
    loaded = _LOADED_BATCHES * inputs.image_bytes * sum(sizes) if stage == 0 else 0
    messages = message_bytes(config, stage, sizes)
    largest = max(sizes)
    if not config.schedule:
        return loaded + messages + tape.layer_image * largest
    others = sum(sizes[: config.peak_in_flight(stage)]) - largest
    tapes = _FRAGMENTATION * (tape.image * others + tape.peak_image * largest)
    return loaded + messages + int(tapes)


def message_bytes(config: PipelineConfig, stage: int, sizes: list[int]) -> int:
    """Return the bytes of a stage's message buffers.

    Args:
        sizes: images of each micro-batch of a full mini-batch.
    """
    layers = config.stage_layers(stage)
    boundaries = (stage - 1, layers[0].inputs), (stage, layers[-1].outputs)
    directions = 2 if config.schedule else 1
    return directions * sum(
        boundary.image_bytes * sum(sizes[: config.message_slots(number)])
        for number, boundary in boundaries
    )


def _too_large(config: PipelineConfig, needed: int, where: str, fitting_share: float) -> InputError:
    fitting = int(config.batch_size * fitting_share)
    remedies = ["more --stages", "a smaller model", "more hosts"]
    if fitting >= config.layout.chunks * max(layer.min_images for layer in config.layers):
        remedies = [f"--batch-size {fitting}"]
    height, width = config.layers[0].inputs.shape[1:]
    if height * width > _LARGE_PIXELS:
        divided = ["with --model study more --parts", "--recompute"] if config.schedule else []
        remedies = ["smaller images (see vigmpi prepare --image-size)", *divided, *remedies]
    *others, last = remedies
    remedy = f"{', '.join(others)} or {last}" if others else last
    return InputError(
        f"not enough memory for --batch-size {config.batch_size}: it needs {_gib(needed)} {where}, "
        f"where at most {fitting} images fit. Use {remedy}."
    )


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"

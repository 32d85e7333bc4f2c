"""Check of the micro-batches of a whole epoch before its start."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vigmpi.cli.config import RunConfig
from vigmpi.datasets.order import images_left
from vigmpi.errors import InputError
from vigmpi.models.layer import Layer
from vigmpi.phase import Phase
from vigmpi.position import Position


def smallest_micro_batch(config: RunConfig, num_images: int, start: Position = Position()) -> int:
    """Return the size of the smallest non-empty training micro-batch, or 0 if there is none.

    Args:
        num_images: number of training images.
        start: position in the epoch; what follows it counts.
    """
    batch_size = config.global_batch_size
    left = images_left(num_images, start.num_images, batch_size, drop_last=config.drop_last)
    full, last = divmod(left, batch_size)
    if config.steps and full >= (steps := max(0, config.steps - start.step)):
        full, last = steps, 0
    mini_batches = {batch_size * bool(full), last}
    sizes = {size for images in mini_batches for size in config.layout.micro_batch_sizes(images)}
    return min(sizes - {0}, default=0)


def check_micro_batches(
    config: RunConfig, num_images: int, layers: Sequence[Layer], start: Position = Position()
) -> None:
    """Raise InputError if an epoch has no mini-batch, or a micro-batch too small for a layer.

    Args:
        num_images: number of training images.
        start: position at which the run starts.
    """
    if not smallest_micro_batch(config, num_images):
        raise InputError(
            f"no mini-batch left: --drop-last with {config.global_batch_size} images per "
            f"mini-batch and {num_images} training images. Use a smaller --batch-size, or "
            f"--no-drop-last."
        )
    starts = [Position(), start] if start.phase is Phase.TRAIN else [Position()]
    needed = max(layer.min_images for layer in layers)
    smallest = _smallest(config, num_images, starts)
    if smallest < needed:
        remedies = list(_remedies(config, num_images, starts, needed))
        raise InputError(
            f"micro-batches too small: --batch-size {config.batch_size} with --chunks "
            f"{config.chunks} leaves a training micro-batch with {smallest} of {num_images} "
            f"images, but --model {config.model} needs at least {needed}. Use "
            f"{' or '.join(remedies) or 'a larger --batch-size'}."
        )


def _smallest(config: RunConfig, num_images: int, starts: Sequence[Position]) -> int:
    sizes = {smallest_micro_batch(config, num_images, start) for start in starts}
    return min(sizes - {0}, default=0)


def _remedies(
    config: RunConfig, num_images: int, starts: Sequence[Position], needed: int
) -> Iterator[str]:
    """Yield options that avoid the small micro-batches, each of them alone."""

    def helps(other: RunConfig) -> bool:
        return _smallest(other, num_images, starts) >= needed

    if helps(replace(config, drop_last=True)):
        yield "--drop-last"
    for chunks in range(min(config.chunks - 1, num_images // needed), 0, -1):
        if helps(replace(config, chunks=chunks)):
            yield f"--chunks {chunks}"
            break
    largest = -(-num_images // config.replicas)  # it holds all images; larger ones do not differ
    limit = min(2 * (config.batch_size + config.chunks), largest + 1)
    for batch_size in range(config.batch_size + 1, limit):
        if helps(replace(config, batch_size=batch_size)):
            yield f"--batch-size {batch_size}"
            break

"""Check of the micro-batches of a whole epoch before its start."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vigmpi.cli.config import RunConfig
from vigmpi.datasets.order import images_per_epoch
from vigmpi.errors import InputError
from vigmpi.models.layer import Layer


def smallest_micro_batch(config: RunConfig, num_images: int) -> int:
    """Return the size of the smallest training micro-batch that is not empty; 0 without any.

    Args:
        num_images: number of training images.
    """
    batch_size = config.global_batch_size
    used = images_per_epoch(num_images, batch_size, drop_last=config.drop_last)
    full, last = divmod(used, batch_size)
    if 0 < config.steps <= full:
        last = 0
    mini_batches = {batch_size * bool(full), last}
    sizes = {size for images in mini_batches for size in config.layout.micro_batch_sizes(images)}
    return min(sizes - {0}, default=0)


def check_micro_batches(config: RunConfig, num_images: int, layers: Sequence[Layer]) -> None:
    """Raise InputError if an epoch has no mini-batch, or a micro-batch too small for a layer.

    Args:
        num_images: number of training images.
    """
    smallest, needed = smallest_micro_batch(config, num_images), _needed(layers)
    if not smallest:
        raise InputError(
            f"no mini-batch left: --drop-last with {config.global_batch_size} images per "
            f"mini-batch and {num_images} training images. Use a smaller --batch-size, or "
            f"--no-drop-last."
        )
    if smallest < needed:
        remedies = list(_remedies(config, num_images, needed))
        raise InputError(
            f"micro-batches too small: --batch-size {config.batch_size} --chunks {config.chunks} "
            f"makes one of {smallest} of the {num_images} training images, and --model "
            f"{config.model} needs {needed} to train. Use "
            f"{' or '.join(remedies) or 'a larger --batch-size'}."
        )


def _needed(layers: Sequence[Layer]) -> int:
    return max(layer.min_images for layer in layers)


def _remedies(config: RunConfig, num_images: int, needed: int) -> Iterator[str]:
    """Yield options that avoid the small micro-batches, each of them alone."""

    def helps(other: RunConfig) -> bool:
        return smallest_micro_batch(other, num_images) >= needed

    if helps(replace(config, drop_last=True)):
        yield "--drop-last"
    for chunks in range(config.chunks - 1, 0, -1):
        if helps(replace(config, chunks=chunks)):
            yield f"--chunks {chunks}"
            break
    for batch_size in range(config.batch_size + 1, 2 * (config.batch_size + config.chunks)):
        if helps(replace(config, batch_size=batch_size)):
            yield f"--batch-size {batch_size}"
            break

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from vigmpi.datasets.dataset import Indices, Labels, Pixels
from vigmpi.phase import Phase


class ImageBatch(NamedTuple):
    """ImageBatch images of a phase: their places in its order, labels and pixels."""

    phase: Phase
    rows: Indices
    labels: Labels
    pixels: Pixels


class Source(ABC):
    """What can be prepared.

    Attributes:
        samples: images of each phase.
        class_names: their names; known once all images have been read.
    """

    samples: dict[Phase, int]
    class_names: tuple[str, ...]

    @abstractmethod
    def read(self) -> Iterator[ImageBatch]:
        """All images, in an order that suits the source.

        Raises:
            InputError: one of them is not what it should be.
        """

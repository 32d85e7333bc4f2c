from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from vigmpi.datasets.dataset import Indices, Labels, Pixels
from vigmpi.phase import Phase


class ImageBatch(NamedTuple):
    """Images of one phase; `rows` are their indices in this phase, [images]."""

    phase: Phase
    rows: Indices
    labels: Labels
    pixels: Pixels


class Source(ABC):
    """Labelled images to be written to a prepared file.

    Attributes:
        num_images: number of images in each phase.
        class_names: names of the classes; set once all images have been read.
    """

    num_images: dict[Phase, int]
    class_names: tuple[str, ...]

    @abstractmethod
    def read(self) -> Iterator[ImageBatch]:
        """Yield all images, in any order.

        Raises:
            InputError: if an image is invalid.
        """

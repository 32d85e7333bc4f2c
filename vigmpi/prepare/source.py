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
        remarks: phrases that say how the source was understood and what was left out.

    Once all images have been read:

    Attributes:
        class_names: names of the classes.
        sizes: heights and widths that the images have.
        unreadable: name of each image that could not be read, with the reason.
    """

    num_images: dict[Phase, int]
    class_names: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.sizes: set[tuple[int, int]] = set()
        self.unreadable: list[str] = []

    @abstractmethod
    def read(self) -> Iterator[ImageBatch]:
        """Yield all readable images, in any order.

        Raises:
            InputError: if the source is damaged, or a class has no readable image in a phase.
        """

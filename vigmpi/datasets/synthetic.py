from itertools import product

import numpy as np

from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.phase import Phase

_PIXELS_AT_A_TIME = 2**18


class Synthetic(Dataset):
    """Noisy stripes of random colour whose direction and width depend on the class.

    An image is a function of the seed, the phase and its index, computed on demand: all ranks
    generate the same images and none stores them. A strip of an image needs the memory of its rows.
    """

    name = "synthetic"
    details = "striped textures generated from the seed"
    num_images = {Phase.TRAIN: 50_000, Phase.TEST: 10_000}  # noqa: RUF012

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        self.image_size = image_size

    def load(self, *, images: bool, labels: bool) -> None:
        pass

    def images(self, phase: Phase, samples: Indices) -> Images:
        return self.strips(phase, samples, range(self.image_size[0]))

    def strips(self, phase: Phase, samples: Indices, rows: range) -> Images:
        images = np.empty((len(samples), 3, len(rows), self.image_size[1]), dtype=np.float32)
        for image, label, sample in zip(images, self.labels(phase, samples), samples, strict=True):
            self._draw(image, rows, int(label), (list(Phase).index(phase), int(sample)))
        return images

    def labels(self, phase: Phase, samples: Indices) -> Labels:  # noqa: ARG002
        return samples % self.num_classes

    def _draw(self, image: Images, rows: range, label: int, key: tuple[int, int]) -> None:
        """Draw some rows of an image; the noise of all rows comes from one random stream."""
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, *key])))
        angle = np.pi * label / self.num_classes
        waves = 3 + label % 3
        height, width = self.image_size
        y, x = np.mgrid[0 : 1 : height * 1j][:, None], np.mgrid[0 : 1 : width * 1j]
        shift, colour = random.random(), random.uniform(0.2, 0.4, size=3)
        rows_at_a_time = max(1, _PIXELS_AT_A_TIME // width)
        for channel, start in product(range(3), range(0, height, rows_at_a_time)):
            stop = min(start + rows_at_a_time, height)
            noise = random.normal(scale=0.1, size=(stop - start, width))
            first, end = max(start, rows.start), min(stop, rows.stop)
            if first < end:
                across = np.cos(angle) * x + np.sin(angle) * y[first:end]
                stripes = np.sin(2 * np.pi * (waves * across + shift))
                values = 0.5 + colour[channel] * stripes + noise[first - start : end - start]
                out = image[channel, first - rows.start : end - rows.start]
                np.clip(values, 0, 1, out=out, casting="unsafe")

import numpy as np

from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.phase import Phase


class Synthetic(Dataset):
    """Noisy stripes of random colour whose direction and width depend on the class.

    An image is a function of the seed, the phase and its index, computed on demand: all ranks
    generate the same images and none stores them.
    """

    name = "synthetic"
    details = "striped textures generated from the seed"
    num_images = {Phase.TRAIN: 50_000, Phase.TEST: 10_000}  # noqa: RUF012

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        self.image_size = image_size

    def load(self, *, images: bool, labels: bool) -> None:
        pass

    def images(self, phase: Phase, samples: Indices) -> Images:
        images = np.empty((len(samples), 3, *self.image_size), dtype=np.float32)
        for image, label, sample in zip(images, self.labels(phase, samples), samples, strict=True):
            self._draw(image, int(label), (list(Phase).index(phase), int(sample)))
        return images

    def labels(self, phase: Phase, samples: Indices) -> Labels:  # noqa: ARG002
        return samples % self.num_classes

    def _draw(self, image: Images, label: int, key: tuple[int, int]) -> None:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, *key])))
        angle = np.pi * label / self.num_classes
        waves = 3 + label % 3
        height, width = self.image_size
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        across = np.cos(angle) * x + np.sin(angle) * y
        stripes = np.sin(2 * np.pi * (waves * across + random.random()))
        colour = random.uniform(0.2, 0.4, size=(3, 1, 1))
        noise = random.normal(scale=0.1, size=image.shape)
        np.clip(0.5 + colour * stripes + noise, 0, 1, out=image, casting="unsafe")

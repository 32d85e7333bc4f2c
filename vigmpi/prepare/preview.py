import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vigmpi.datasets.dataset import Dataset
from vigmpi.phase import Phase

_IMAGES, _CLASSES = 8, 20
_CELL, _MARGIN, _TEXT = 96, 4, 160  # pixels


def preview(dataset: Dataset) -> Image.Image:
    """Draw the first training images of each class as the network will see them, a row per class.

    Small images are enlarged by whole factors, large ones are reduced; of many classes, the first
    ones are shown.
    """
    labels = dataset.labels(Phase.TRAIN, np.arange(dataset.num_images[Phase.TRAIN]))
    names = dataset.class_names[:_CLASSES]
    height, width = dataset.image_size
    scale = _CELL / max(height, width)
    if scale > 1:
        scale = int(scale)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    step_x, step_y = size[0] + _MARGIN, size[1] + _MARGIN
    sheet = Image.new(
        "RGB", (_TEXT + _IMAGES * step_x + _MARGIN, len(names) * step_y + _MARGIN), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, name in enumerate(names):
        top = _MARGIN + number * step_y
        # The font that Pillow always has holds the characters of Latin-1.
        text = name.encode("latin-1", "backslashreplace").decode("latin-1")
        draw.text((_MARGIN, top + size[1] // 2 - 6), text, fill="black", font=font)
        samples = np.flatnonzero(labels == number)[:_IMAGES]
        for column, image in enumerate(dataset.images(Phase.TRAIN, samples)):
            pixels = np.round(255 * image.transpose(1, 2, 0)).astype(np.uint8)
            resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
            sheet.paste(
                Image.fromarray(pixels).resize(size, resampling), (_TEXT + column * step_x, top)
            )
    return sheet

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vigmpi.datasets.decoding import decode, resized, size_of
from vigmpi.errors import InputError

FORMATS = ["png", "jpeg", "gif", "webp", "tiff", "bmp", "ico", "jpeg2000", "ppm", "tga", "psd"]


def encoded(name: str) -> bytes:
    pixels = np.random.default_rng(0).integers(256, size=(24, 16, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, name)
    return content.getvalue()


INTACT = [encoded(name) for name in FORMATS if name.upper() in Image.SAVE]


@pytest.mark.filterwarnings("ignore")
@given(st.data())
@settings(max_examples=400, deadline=5000)
def test_a_damaged_image_is_decoded_or_reported_in_one_line(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(INTACT)))
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=6)):
        content[bit // 8] ^= 1 << bit % 8
    damaged = bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    message = ""
    try:
        size_of(damaged, "x")
        assert decode(damaged, "x", (8, 6)).shape == (3, 8, 6)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


def test_arrays_are_resized_like_files() -> None:
    content = encoded("png")
    pixels = decode(content, "x")
    assert size_of(content, "x") == pixels.shape[1:] == (24, 16)
    np.testing.assert_array_equal(resized(pixels[None], (9, 7))[0], decode(content, "x", (9, 7)))

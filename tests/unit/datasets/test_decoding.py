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


SOUND = [encoded(name) for name in FORMATS if name.upper() in Image.SAVE]


@pytest.mark.filterwarnings("ignore")
@given(st.data())
@settings(max_examples=400, deadline=5000)
def test_a_damaged_image_is_told_of_in_one_line_or_decoded(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SOUND)))
    for place in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=6)):
        content[place // 8] ^= 1 << place % 8
    whole = bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    message = ""
    try:
        size_of(whole, "x")
        assert decode(whole, "x", (8, 6)).shape == (3, 8, 6)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


def test_arrays_are_resized_as_files_are() -> None:
    content = encoded("png")
    as_it_is = decode(content, "x")
    assert size_of(content, "x") == as_it_is.shape[1:] == (24, 16)
    np.testing.assert_array_equal(resized(as_it_is[None], (9, 7))[0], decode(content, "x", (9, 7)))

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vigmpi.datasets.decoding import decode, resized, size_of
from vigmpi.errors import InputError

ORIENTATIONS = range(1, 9)
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
        size_of(io.BytesIO(damaged), "x")
        assert decode(damaged, "x", (8, 6)).shape == (3, 8, 6)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


def with_exif(image: Image.Image, name: str, exif: bytes) -> bytes:
    content = io.BytesIO()
    image.save(content, name, exif=exif, **({"lossless": True} if name == "webp" else {}))
    return content.getvalue()


@pytest.mark.parametrize("name", ["png", "webp", "tiff", "jpeg"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_are_turned_upright(name: str, orientation: int) -> None:
    """The stored image has an L of white pixels, whose corner tells how it was turned."""
    pixels = np.zeros((24, 16, 3), np.uint8)
    pixels[:, :4] = pixels[20:] = 255
    upright = Image.fromarray(pixels)
    undo = {  # the operations of which the EXIF standard requires the inverse
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = with_exif(stored, name, exif.tobytes())
    assert size_of(io.BytesIO(content), "x") == (24, 16)
    difference = decode(content, "x").transpose(1, 2, 0).astype(int) - pixels
    assert abs(difference).mean() < (8 if name == "jpeg" else 1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense"])
def test_damaged_exif_data_do_not_count(exif: bytes) -> None:
    content = with_exif(Image.new("RGB", (16, 24)), "jpeg", exif)
    assert size_of(io.BytesIO(content), "x") == decode(content, "x").shape[1:] == (24, 16)


def test_exif_data_behind_the_pixels_of_a_png_file_do_not_count() -> None:
    """The size of an image must be known from its header."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = with_exif(Image.new("RGB", (16, 24)), "png", exif.tobytes())
    start = content.index(b"eXIf") - 4
    chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4])]
    assert decode(content, "x").shape == (3, 16, 24)
    moved = content.replace(chunk, b"")[:-12] + chunk + content[-12:]
    with Image.open(io.BytesIO(moved)) as image:
        assert image.getexif()[0x0112] == 6
    assert size_of(io.BytesIO(moved), "x") == decode(moved, "x").shape[1:] == (24, 16)


def test_arrays_are_resized_like_files() -> None:
    content = encoded("png")
    pixels = decode(content, "x")
    assert size_of(io.BytesIO(content), "x") == pixels.shape[1:] == (24, 16)
    np.testing.assert_array_equal(resized(pixels[None], (9, 7))[0], decode(content, "x", (9, 7)))

"""Strings of fixed length in HDF5 files.

HDF5 keeps strings of variable length on a heap without checksums, and HDF5 2.0 can loop forever
over a damaged heap. What a program must read from a file that may be damaged has a fixed length.
"""

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np


def escaped(text: str) -> str:
    """Return text that HDF5 can hold: bytes of file names that are not UTF-8 become escapes."""
    return text.encode(errors="backslashreplace").decode()


def fixed_string(text: str) -> Any:
    """Return text as a value of an attribute."""
    content = text.encode(errors="backslashreplace")
    return np.array(content, h5py.string_dtype("utf-8", max(1, len(content))))


def fixed_strings(texts: Sequence[str]) -> Any:
    """Return texts as the values of an attribute, [texts]."""
    return np.array([text.encode(errors="backslashreplace") for text in texts], dtype="S")


def read_string(attributes: h5py.AttributeManager, name: str) -> str | None:
    """Return a string attribute, or None if there is none or if its length is variable."""
    if name not in attributes or attributes.get_id(name).dtype.kind != "S":
        return None
    value = attributes[name]
    return value.decode(errors="replace") if isinstance(value, bytes) else None

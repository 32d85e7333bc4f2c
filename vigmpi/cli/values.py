"""Parsers for the values of command-line options."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_COUNT = 2**31 - 1
MAX_SEED = 2**63 - 1
MAX_CHUNKS = 4096  # the message tags of 31 stages fit into the smallest bound of MPI libraries
MAX_BLOCKS = MAX_THREADS = 1024
MAX_EXPORTED_BATCH = 4096
MAX_REQUESTS = 100_000_000
MAX_SIDE = 2**20
_MAX_DIGITS = 30
_MAX_SECONDS = 1e8  # three years; the operating system takes no more than 9e9


def whole_number(minimum: int, maximum: int = MAX_COUNT) -> Callable[[str], int]:
    """Return a parser for integers from `minimum` to `maximum`."""

    def parse(text: str) -> int:
        number = int(text[:_MAX_DIGITS]) if text.isdecimal() else minimum - 1
        if minimum <= number <= maximum:
            return number
        bound = f"at most {maximum}" if number > maximum else f"at least {minimum}"
        raise argparse.ArgumentTypeError(f"expected an integer of {bound}, not {text[:40]!r}")

    return parse


def list_of(parse: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Return a parser for values between commas."""
    return lambda text: tuple(parse(part.strip()) for part in text.split(","))


def path(text: str) -> Path:
    """Parse a path, in which a TOML file or a flag with "=" may have left a "~" to us."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


def file_path(text: str) -> Path:
    if not path(text).name:
        raise argparse.ArgumentTypeError(f"expected the path of a file, not {text!r}")
    return path(text)


def positive_number(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number greater than 0, not {text!r}")
    return value


def non_negative_number(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, not {text!r}")
    return value


def seconds(minimum: float) -> Callable[[str], float]:
    """Return a parser for durations of at least `minimum` seconds."""

    def parse(text: str) -> float:
        value = positive_number(text)
        if not minimum <= value <= _MAX_SECONDS:
            bounds = f"from {minimum:g} to {_MAX_SECONDS:g} seconds"
            raise argparse.ArgumentTypeError(f"expected {bounds}, not {text!r}")
        return value

    return parse


def fraction(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a fraction between 0 and 1, not {text!r}")
    return value


def proper_fraction(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(
            f"expected a fraction of at least 0 and below 1, not {text!r}"
        )
    return value


def image_size(text: str) -> tuple[int, int]:
    """Parse "N" or "HEIGHTxWIDTH", in pixels."""
    sides = text.split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdecimal() and side.strip("0") for side in sides):
        raise argparse.ArgumentTypeError(f"expected N or HEIGHTxWIDTH, not {text[:40]!r}")
    height, width = (whole_number(1, MAX_SIDE)(side) for side in (sides[0], sides[-1]))
    return height, width


MEASURED = "measured"


def split(text: str) -> tuple[int, ...] | str:
    """Parse "measured", or the number of blocks on each stage."""
    return text if text == MEASURED else list_of(whole_number(1))(text)


def comma_separated(text: str) -> tuple[str, ...]:
    return list_of(str)(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

"""Parsers for the values of command-line options."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return a parser for integers of at least `minimum`."""

    def parse(text: str) -> int:
        if text.isdecimal() and int(text) >= minimum:
            return int(text)
        raise argparse.ArgumentTypeError(f"expected an integer of at least {minimum}, not {text!r}")

    return parse


def file_path(text: str) -> Path:
    if not (path := Path(text)).name:
        raise argparse.ArgumentTypeError(f"expected the path of a file, not {text!r}")
    return path


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
        if value < minimum:
            message = f"expected at least {minimum:g} seconds, not {text!r}"
            raise argparse.ArgumentTypeError(message)
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
    if not 1 <= len(sides) <= 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"expected N or HEIGHTxWIDTH, not {text!r}")
    return int(sides[0]), int(sides[-1])


MEASURED = "measured"


def split(text: str) -> tuple[int, ...] | str:
    """Parse "measured", or the number of blocks on each stage."""
    return text if text == MEASURED else comma_separated_numbers(text)


def comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def comma_separated_numbers(text: str) -> tuple[int, ...]:
    return tuple(whole_number(1)(number.strip()) for number in text.split(","))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

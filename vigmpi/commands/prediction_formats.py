"""Output formats of `vigmpi predict`; each function yields lines as images are classified."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vigmpi.datasets.file_tree import printable

_TOP = 3


class Prediction(NamedTuple):
    """Class probabilities of an image, [classes]; if it could not be read, why not."""

    path: Path
    probabilities: NDArray[np.float32] | None
    problem: str = ""


def table(
    predictions: Iterable[Prediction], class_names: Sequence[str], width: int
) -> Iterator[str]:
    """Yield the most probable classes of each image.

    Args:
        width: characters of the longest path.
    """
    for path, probabilities, problem in predictions:
        cells = [f"{printable(str(path)):{width}}"]
        if probabilities is None:
            cells.append(problem)
        else:
            top = np.argsort(-probabilities)[:_TOP]
            cells += [f"{printable(class_names[i])} {probabilities[i]:6.1%}" for i in top]
        yield "  ".join(cells)


def comma_separated(
    predictions: Iterable[Prediction],
    class_names: Sequence[str],
    width: int,  # noqa: ARG001
) -> Iterator[str]:
    """Yield a header and, for each image, its class and all probabilities."""
    yield _csv_row(["image", "class", "problem", *class_names])
    for path, probabilities, problem in predictions:
        if probabilities is None:
            yield _csv_row([path, "", problem, *[""] * len(class_names)])
        else:
            name = class_names[int(probabilities.argmax())]
            yield _csv_row([path, name, "", *(f"{share:.6g}" for share in probabilities)])


def json_array(
    predictions: Iterable[Prediction],
    class_names: Sequence[str],
    width: int,  # noqa: ARG001
) -> Iterator[str]:
    """Yield an array of one object per image, with all probabilities by class."""
    line = "["
    for number, (path, probabilities, problem) in enumerate(predictions):
        yield line + "," * (number > 0)
        values: dict[str, Any] = {"image": str(path)}
        if probabilities is None:
            values["problem"] = problem
        else:
            values["classes"] = dict(zip(class_names, map(float, probabilities), strict=True))
        line = json.dumps(values)
    yield line
    yield "]"


def _csv_row(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


WRITERS: dict[str, Callable[[Iterable[Prediction], Sequence[str], int], Iterator[str]]] = {
    "table": table,
    "csv": comma_separated,
    "json": json_array,
}

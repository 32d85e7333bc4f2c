"""Reading of vigmpi's HDF5 records into pandas data frames."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from vigmpi.errors import InputError
from vigmpi.record.columns import FORMAT

PHASES = ("train", "test")


@dataclass(frozen=True)
class Record:
    """The complete mini-batches of one record, with its configuration.

    Attributes:
        path: file that the record was read from.
        settings: configuration of the run, by option name.
        dataset: description of the data set.
        steps: one row per mini-batch, with `step_s` of its slowest rank and `seen`, the number of
            training images processed up to its end.
        ranks: one row per rank.
    """

    path: Path
    settings: dict[str, Any]
    dataset: str
    steps: pd.DataFrame
    ranks: pd.DataFrame

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def layout(self) -> tuple[int, int, int]:
        """Number of stages, of replicas and of chunks."""
        stages, replicas, chunks = (int(self.settings[n]) for n in ("stages", "replicas", "chunks"))
        return stages, replicas, chunks

    @property
    def is_sequential(self) -> bool:
        """True if one rank ran the whole model on whole images."""
        return len(self.ranks) == 1

    @property
    def split(self) -> tuple[int, ...]:
        """Number of blocks on each stage."""
        return tuple(int(num_blocks) for num_blocks in self.settings["split"])

    def step_seconds(self, phase: str) -> pd.Series:
        """Return the seconds of each mini-batch on its slowest rank, without warm-up."""
        rows = self.steps[(self.steps.phase == phase) & (self.steps.warm_up == 0)]
        return rows.step_s

    @cached_property
    def layer_seconds(self) -> pd.DataFrame:
        """Forward and backward seconds of each layer, without warm-up.

        One row per mini-batch, replica and layer; columns `mini_batch`, `replica`, `layer`,
        `seconds` and `phase`.
        """
        with h5py.File(self.path, locking=False) as file:
            names = [name.decode() for name in file["layer"][:]]
            forward = file["layers/forward_s"][: len(self.steps)]
            backward = file["layers/backward_s"][: len(self.steps)]
        keep = self.steps.warm_up.to_numpy() == 0
        total = (forward + backward)[keep]
        index = pd.MultiIndex.from_product(
            [self.steps.index[keep], range(total.shape[1]), names],
            names=["mini_batch", "replica", "layer"],
        )
        frame = pd.DataFrame({"seconds": total.ravel()}, index=index).reset_index()
        return frame.join(self.steps.phase, on="mini_batch")

    @cached_property
    def trace(self) -> pd.DataFrame:
        """The spans of all ranks; empty if the run was not traced."""
        with h5py.File(self.path, locking=False) as file:
            if "trace" not in file:
                return pd.DataFrame()
            group = file["trace"]
            kinds = np.array([_text(kind) for kind in group.attrs["kinds"]])
            columns = ("mini_batch", "rank", "kind", "micro_batch", "start_s", "end_s")
            frame = pd.DataFrame({name: group[name][:] for name in columns})
        frame["kind"] = kinds[frame.kind]
        return frame.join(self.ranks[["replica", "stage"]], on="rank")


def read(path: Path) -> Record:
    """Read the mini-batches that a run has flushed to its record.

    Raises:
        InputError: if the file cannot be read or is not in the current record format.
    """
    with _open(path) as file:
        num_steps = int(file.attrs["steps_done"])
        steps = pd.DataFrame({name: values[:num_steps] for name, values in file["steps"].items()})
        steps["phase"] = np.array(PHASES)[steps.phase]
        steps["step_s"] = file["timings/step_s"][:num_steps].max(axis=1)
        steps["seen"] = steps.num_images.where(steps.phase == "train", 0).cumsum()
        ranks = pd.DataFrame({name: values[:] for name, values in file["ranks"].items()})
        if "part" not in ranks:  # of an earlier version
            ranks["part"] = 0
        ranks["host"] = ranks.host.str.decode("utf-8")
        settings = dict(file["configuration"].attrs)
        return Record(path, settings, str(file.attrs["dataset"]), steps, ranks)


def _open(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, locking=False)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "not an HDF5 file"
        raise InputError(
            f"record cannot be read: {path} ({reason}). Give the path of a file that vigmpi wrote."
        ) from error
    found = _text(file.attrs.get("format", "none"))
    if found != FORMAT:
        file.close()
        raise InputError(
            f"unsupported record format: {path} has format {found!r}, expected {FORMAT!r}. "
            f"Repeat the run with this version of vigmpi and --record FILE."
        )
    return file


def _text(value: Any) -> str:
    """Return a string attribute; older records have variable-length strings, which are no bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)

"""A record of vigmpi as data frames."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

PHASES = ("train", "test")


@dataclass(frozen=True)
class Record:
    """What is whole of one HDF5 file.

    Attributes:
        path: where it was read.
        settings: the run's configuration.
        dataset: what was trained on, in words.
        steps: a row for each mini-batch, with `step_s` of the slowest rank, and `seen`, the
            training images up to its end.
        ranks: a row for each rank.
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
        """Stages, replicas, chunks."""
        stages, replicas, chunks = (int(self.settings[n]) for n in ("stages", "replicas", "chunks"))
        return stages, replicas, chunks

    @property
    def split(self) -> tuple[int, ...]:
        return tuple(int(blocks) for blocks in self.settings["split"])

    def seconds(self, phase: str) -> pd.Series:
        """Of each mini-batch on its slowest rank, without the one that includes warm-up."""
        rows = self.steps[(self.steps.phase == phase) & (self.steps.warm_up == 0)]
        return rows.step_s

    @cached_property
    def parts(self) -> pd.DataFrame:
        """Seconds of each part in a mini-batch, warm-up left out.

        Index: phase, part. A row for each mini-batch and replica.
        """
        with h5py.File(self.path) as file:
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
        """The spans of all ranks; empty without --trace."""
        with h5py.File(self.path) as file:
            if "trace" not in file:
                return pd.DataFrame()
            group = file["trace"]
            kinds = np.array([str(kind) for kind in group.attrs["kinds"]])
            columns = ("mini_batch", "rank", "kind", "micro_batch", "start_s", "end_s")
            frame = pd.DataFrame({name: group[name][:] for name in columns})
        frame["kind"] = kinds[frame.kind]
        return frame.join(self.ranks[["replica", "stage"]], on="rank")


def read(path: Path) -> Record:
    with h5py.File(path) as file:
        done = int(file.attrs["steps_done"])
        steps = pd.DataFrame({name: values[:done] for name, values in file["steps"].items()})
        steps["phase"] = np.array(PHASES)[steps.phase]
        steps["step_s"] = file["timings/step_s"][:done].max(axis=1)
        steps["seen"] = steps.num_images.where(steps.phase == "train", 0).cumsum()
        ranks = pd.DataFrame({name: values[:] for name, values in file["ranks"].items()})
        ranks["host"] = ranks.host.str.decode("utf-8")
        settings = dict(file["configuration"].attrs)
        return Record(path, settings, str(file.attrs["dataset"]), steps, ranks)

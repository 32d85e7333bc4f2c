"""Arrangement of ranks as replicas of a pipeline."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from vigmpi.errors import InputError


class Place(NamedTuple):
    replica: int
    stage: int


@dataclass(frozen=True)
class Layout:
    """R replicas of a pipeline of S stages, with rank = replica * S + stage.

    Neighbouring stages are on neighbouring ranks.
    """

    stages: int
    replicas: int
    chunks: int  # micro-batches per replica and mini-batch

    @property
    def ranks(self) -> int:
        return self.stages * self.replicas

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches of a mini-batch over all replicas."""
        return self.replicas * self.chunks

    def place(self, rank: int) -> Place:
        return Place(*divmod(rank, self.stages))

    def complete_replicas(self, ranks: Collection[int]) -> list[int]:
        """Return the replicas that have all their stages among these ranks."""
        num_stages = Counter(self.place(rank).replica for rank in ranks)
        return [replica for replica in range(self.replicas) if num_stages[replica] == self.stages]

    def check_world(self, size: int) -> None:
        """Raise InputError unless the layout has `size` ranks."""
        if size != self.ranks:
            raise InputError(
                f"wrong number of ranks: --stages {self.stages} x --replicas {self.replicas} "
                f"needs {self.ranks} ranks, {size} {'was' if size == 1 else 'were'} started. Use "
                f"mpirun -n {self.ranks} vigmpi --stages {self.stages} --replicas {self.replicas}."
            )

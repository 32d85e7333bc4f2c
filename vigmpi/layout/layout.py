"""Which rank runs which stage of which replica."""

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
    """R replicas of a pipeline of S stages; rank = replica * S + stage.

    So the neighbours of a pipeline sit on neighbouring ranks.
    """

    stages: int
    replicas: int
    chunks: int  # micro-batches of one replica's mini-batch

    @property
    def ranks(self) -> int:
        return self.stages * self.replicas

    @property
    def micro_batches(self) -> int:
        """Of the global mini-batch, over all replicas."""
        return self.replicas * self.chunks

    def place(self, rank: int) -> Place:
        return Place(*divmod(rank, self.stages))

    def whole_replicas(self, ranks: Collection[int]) -> list[int]:
        """The replicas that have all their stages among these ranks."""
        here = Counter(self.place(rank).replica for rank in ranks)
        return [replica for replica in range(self.replicas) if here[replica] == self.stages]

    def check_world(self, size: int) -> None:
        """Raise InputError unless `size` ranks fill the layout."""
        if size != self.ranks:
            raise InputError(
                f"--stages {self.stages} x --replicas {self.replicas} needs {self.ranks} ranks, "
                f"{size} {'was' if size == 1 else 'were'} started; type: mpirun -n {self.ranks} "
                f"python -m vigmpi --stages {self.stages} --replicas {self.replicas}"
            )

"""Arrangement of ranks as replicas of a pipeline."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from vigmpi.errors import InputError
from vigmpi.layout.split import even_sizes

T = TypeVar("T")


class Place(NamedTuple):
    replica: int
    stage: int


@dataclass(frozen=True)
class Layout:
    """R replicas of a pipeline of S stages, with rank = replica * S + stage.

    Neighbouring stages are on neighbouring ranks. All arithmetic with ranks is here.
    """

    ORDER = "rank = replica * stages + stage"

    stages: int
    replicas: int
    chunks: int  # micro-batches per replica and mini-batch

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of one value per rank, in rank order, as an array [replicas, stages]."""
        return self.replicas, self.stages

    @property
    def ranks(self) -> int:
        return self.stages * self.replicas

    def place(self, rank: int) -> Place:
        return Place(*divmod(rank, self.stages))

    def is_first(self, rank: int) -> bool:
        """Return whether a rank runs the first stage."""
        return self.place(rank).stage == 0

    def is_last(self, rank: int) -> bool:
        """Return whether a rank runs the last stage."""
        return self.place(rank).stage == self.stages - 1

    def previous_stage(self, rank: int) -> list[int]:
        """Return the rank of the previous stage, if there is one."""
        return [] if self.is_first(rank) else [rank - 1]

    def next_stage(self, rank: int) -> list[int]:
        """Return the rank of the next stage, if there is one."""
        return [] if self.is_last(rank) else [rank + 1]

    def neighbours(self, rank: int) -> list[int]:
        return self.previous_stage(rank) + self.next_stage(rank)

    def other_replicas(self, rank: int) -> list[int]:
        """Return the ranks that run the same stage in the other replicas."""
        return [r for r in range(rank % self.stages, self.ranks, self.stages) if r != rank]

    def all_others(self, rank: int) -> list[int]:
        return [other for other in range(self.ranks) if other != rank]

    def micro_batch_sizes(self, num_images: int) -> list[int]:
        """Return the sizes of a global mini-batch's micro-batches, 0 for empty ones.

        Replica r runs those with the numbers r * chunks to (r + 1) * chunks - 1.
        """
        return even_sizes(num_images, self.replicas * self.chunks)

    def of_replica(self, micro_batches: Sequence[T], replica: int) -> Sequence[T]:
        """Return a replica's share of one value per micro-batch of a global mini-batch."""
        return micro_batches[replica * self.chunks : (replica + 1) * self.chunks]

    def complete_replicas(self, ranks: Collection[int]) -> list[int]:
        """Return the replicas that have all their stages among these ranks."""
        num_stages = Counter(self.place(rank).replica for rank in ranks)
        return [replica for replica in range(self.replicas) if num_stages[replica] == self.stages]

    def with_ranks(self, ranks: int) -> "Layout":
        """Return this layout with as many replicas as a number of ranks makes."""
        return replace(self, replicas=ranks // self.stages)

    def check_world(self, size: int, launcher: str) -> None:
        """Raise InputError unless the layout has `size` ranks.

        Args:
            launcher: command that starts ranks.
        """
        if size != self.ranks:
            raise InputError(
                f"wrong number of ranks: --stages {self.stages} x --replicas {self.replicas} "
                f"needs {self.ranks} ranks, {size} {'was' if size == 1 else 'were'} started. "
                f"Use {launcher} -n {self.ranks} vigmpi --stages {self.stages} --replicas "
                f"{self.replicas}."
            )

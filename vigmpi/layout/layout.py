"""Arrangement of ranks as replicas of a pipeline whose stages may consist of parts."""

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
    part: int = 0


@dataclass(frozen=True)
class Layout:
    """R replicas of a pipeline of S stages on P parts of each image.

    The ranks of all parts of a stage are neighbours. All arithmetic with ranks is here.
    """

    ORDER = "rank = (replica * stages + stage) * parts + part"

    stages: int
    replicas: int
    chunks: int  # micro-batches per replica and mini-batch
    parts: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one value per rank, in rank order, as an array [replicas, stages, parts]."""
        return self.replicas, self.stages, self.parts

    @property
    def ranks(self) -> int:
        return self.replicas * self.ranks_per_replica

    @property
    def ranks_per_replica(self) -> int:
        return self.stages * self.parts

    def place(self, rank: int) -> Place:
        stage_of_all, part = divmod(rank, self.parts)
        return Place(*divmod(stage_of_all, self.stages), part)

    def is_first(self, rank: int) -> bool:
        """Return whether a rank runs the first stage."""
        return self.place(rank).stage == 0

    def is_last(self, rank: int) -> bool:
        """Return whether a rank runs the last stage."""
        return self.place(rank).stage == self.stages - 1

    def previous_stage(self, rank: int) -> list[int]:
        """Return the rank of the previous stage, if there is one."""
        return [] if self.is_first(rank) else [rank - self.parts]

    def next_stage(self, rank: int) -> list[int]:
        """Return the rank of the next stage, if there is one."""
        return [] if self.is_last(rank) else [rank + self.parts]

    def neighbours(self, rank: int) -> list[int]:
        return self.previous_stage(rank) + self.next_stage(rank)

    def other_replicas(self, rank: int) -> list[int]:
        """Return the ranks that run the same stage and part in the other replicas."""
        number = self.ranks_per_replica
        return [r for r in range(rank % number, self.ranks, number) if r != rank]

    def other_parts(self, rank: int) -> list[int]:
        """Return the ranks that run the other parts of the same stage and replica."""
        first = rank - rank % self.parts
        return [r for r in range(first, first + self.parts) if r != rank]

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
        """Return the replicas that have all their stages and parts among these ranks."""
        number = Counter(self.place(rank).replica for rank in ranks)
        return [r for r in range(self.replicas) if number[r] == self.ranks_per_replica]

    def with_ranks(self, ranks: int) -> "Layout":
        """Return this layout with as many replicas as a number of ranks makes."""
        return replace(self, replicas=ranks // self.ranks_per_replica)

    def check_world(self, size: int, launcher: str) -> None:
        """Raise InputError unless the layout has `size` ranks.

        Args:
            launcher: command that starts ranks.
        """
        if size != self.ranks:
            flags = [f"--stages {self.stages}", f"--replicas {self.replicas}"]
            flags += [f"--parts {self.parts}"] * (self.parts > 1)
            raise InputError(
                f"wrong number of ranks: {' x '.join(flags)} needs {self.ranks} ranks, "
                f"{size} {'was' if size == 1 else 'were'} started. Use {launcher} -n {self.ranks} "
                f"vigmpi {' '.join(flags)}."
            )

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from vigmpi.cli.config import RunConfig
from vigmpi.comm import fault_tolerance
from vigmpi.errors import RunError
from vigmpi.monitor.activity import Activity
from vigmpi.position import Position


class Committed(NamedTuple):
    """What a rank goes on from when others are lost.

    Attributes:
        position: behind the last mini-batch that all ranks had finished.
        state: this rank's weights, running statistics and optimizer there, by name.
    """

    position: Position
    state: Mapping[str, np.ndarray]


class RankLoss(NamedTuple):
    """Attributes:
    mini_batches: done before.
    ranks: that went, those of broken replicas among them, by the original_ranks the run began with;
        none where MPI alone failed.
    """

    mini_batches: int
    ranks: list[int]


class RanksLostError(Exception):
    """MPI failed on some rank, and all ranks that live know it."""


@dataclass
class Crew:
    """The ranks that a run has, and what they need to go on without those that are lost.

    Attributes:
        config: of the run, with as many replicas as there are.
        original_ranks: these ranks' original_ranks in the world that the run began with, [ranks].
        initial_size: how many there were.
        losses: so far.
        run: the run's identifier, and `ranks`, what its record says of the ranks it began with;
            empty until they are known.
        comms: made of `world`.
    """

    world: MPI.Intracomm
    config: RunConfig
    original_ranks: list[int]
    initial_size: int
    committed: Committed | None = None
    losses: list[RankLoss] = field(default_factory=list)
    run: str = ""
    ranks: Mapping[str, np.ndarray] = field(default_factory=dict)
    comms: Sequence[MPI.Comm] = ()

    @classmethod
    def of_all(cls, world: MPI.Intracomm, config: RunConfig) -> "Crew":
        return cls(world, config, list(range(world.size)), world.size)

    @property
    def first_config(self) -> RunConfig:
        """As the run began."""
        return replace(self.config, replicas=self.initial_size // self.config.stages)

    @property
    def continues_on_failure(self) -> bool:
        """Whether it is to go on without ranks that are lost."""
        return self.config.on_failure == "continue"

    @contextmanager
    def recovering_from_mpi_errors(self) -> Iterator[None]:
        """A block that ranks leave recovering_from_mpi_errors, its last words a `commit`.

        Raises:
            RanksLostError: MPI failed on some rank; on all ranks of a crew that goes on.
        """
        try:
            yield
        except MPI.Exception as error:
            if not self.continues_on_failure:
                raise
            fault_tolerance.revoke([*self.comms, self.world])
            fault_tolerance.agree(self.world, well=False)
            raise RanksLostError(str(error)) from error

    def commit(self, position: Position, state: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Have all ranks finish a mini-batch, or none. Collective.

        Does nothing for a crew that is not to go on.

        Args:
            state: of this rank behind it; copied.

        Raises:
            RanksLostError: on all ranks alike.
        """
        if not self.continues_on_failure:
            return
        if not fault_tolerance.agree(self.world, well=True):
            raise RanksLostError("in the agreement on a mini-batch")
        copies = {name: values.copy() for name, values in state().items()}
        self.committed = Committed(position, copies)

    def survivors(self, activity: Activity, why: str) -> "Crew | None":
        """The crew of the replicas that are whole; None on the ranks of others. Collective.

        Raises:
            RunError: there is no such replica, or MPI fails in a mini-batch again though no rank
                is lost (on all ranks alike).
        """
        left, ranks = fault_tolerance.shrink(self.world)
        activity.restart(left.rank)
        layout = self.config.layout
        whole = layout.whole_replicas(ranks)
        if not whole:
            raise RunError("no replica has all its ranks any more; type: --resume latest")
        stay = [rank for rank in ranks if layout.place(rank).replica in whole]
        world = fault_tolerance.split_off(left, stays=self.world.rank in stay)
        if world is None:
            return None
        gone = [number for rank, number in enumerate(self.original_ranks) if rank not in stay]
        done = self.committed.position.mini_batches if self.committed else 0
        loss = RankLoss(done, gone)
        if not gone and loss in self.losses:
            raise RunError(f"MPI failed twice ({why}), with all ranks there; type: --resume latest")
        return replace(
            self,
            world=world,
            config=replace(self.config, replicas=len(whole)),
            original_ranks=[self.original_ranks[rank] for rank in stay],
            losses=[*self.losses, loss],
            comms=(),
        )

    def expand_to_initial_ranks(self, values: np.ndarray) -> np.ndarray:
        """[ranks, ...] to [ranks that the run began with, ...], NaN for those that are lost."""
        whole = np.full((self.initial_size, *values.shape[1:]), np.nan)
        whole[self.original_ranks] = values
        return whole

"""The ranks that take part in a run, and recovery after some of them are lost."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from vigmpi.cli.config import RunConfig
from vigmpi.comm import fault_tolerance
from vigmpi.errors import RunError
from vigmpi.launch import restarted
from vigmpi.monitor.activity import Activity
from vigmpi.position import Position
from vigmpi.record.step_record import Row


class CommittedState(NamedTuple):
    """In-memory state from which a rank continues after others are lost.

    Attributes:
        position: the position after the last mini-batch that all ranks finished.
        state: this rank's weights, running statistics and optimizer state there, by name.
    """

    position: Position
    state: Mapping[str, np.ndarray]


class RankLoss(NamedTuple):
    """A failure that the run survived.

    Attributes:
        mini_batches: number of mini-batches finished before the failure.
        ranks: original ranks that left the run, including live ranks of incomplete replicas;
            empty if MPI failed without losing a rank.
    """

    mini_batches: int
    ranks: list[int]


class RanksLostError(Exception):
    """An MPI failure that all surviving ranks know of."""


@dataclass
class RankGroup:
    """The ranks of a run, which become fewer when ranks are lost.

    Attributes:
        config: options of the run, with the current number of replicas.
        original_ranks: rank of each member in the world that the run started with, [ranks].
        initial_size: number of ranks that the run started with.
        committed: state to continue from after a failure; None before the first commit.
        rank_losses: failures so far.
        run, ranks: identifier of the run, and the columns `ranks` of its record; empty until known.
        comms: communicators derived from `world`.
        unrecorded: the last mini-batches, which the run's record may lack; kept only by a run that
            continues on failure, since the rank that writes the record may be lost.
        layer_seconds: times of the layers from which the split was chosen, [layers, 2]; None if it
            was not measured.
    """

    world: MPI.Intracomm
    config: RunConfig
    original_ranks: list[int]
    initial_size: int
    committed: CommittedState | None = None
    rank_losses: list[RankLoss] = field(default_factory=list)
    run: str = ""
    ranks: Mapping[str, np.ndarray] = field(default_factory=dict)
    comms: Sequence[MPI.Comm] = ()
    unrecorded: list[Row] = field(default_factory=list)
    layer_seconds: np.ndarray | None = None

    @classmethod
    def of_world(cls, world: MPI.Intracomm, config: RunConfig) -> "RankGroup":
        return cls(world, config, list(range(world.size)), world.size)

    @property
    def initial_config(self) -> RunConfig:
        """Configuration with the number of replicas that the run started with."""
        replicas = self.config.layout.with_ranks(self.initial_size).replicas
        return replace(self.config, replicas=replicas)

    @property
    def continues_on_failure(self) -> bool:
        """True if the run continues without lost ranks."""
        return self.config.on_failure == "continue"

    @property
    def follows_a_loss(self) -> bool:
        """True if a process that held the run's locks may just have died with its host."""
        return bool(self.rank_losses) or restarted(os.environ)

    @contextmanager
    def recovering_from_mpi_errors(self) -> Iterator[None]:
        """Raise an MPI failure on any rank as RanksLostError on all ranks.

        The last operation in this context must be a `commit`, so that all ranks leave it
        together. Without `--on-failure continue`, MPI exceptions pass through unchanged.

        Raises:
            RanksLostError: if MPI fails on any rank (on all ranks).
        """
        try:
            yield
        except MPI.Exception as error:
            if not self.continues_on_failure:
                raise
            fault_tolerance.revoke([*self.comms, self.world])
            fault_tolerance.agree(self.world, ok=False)
            raise RanksLostError(str(error)) from error

    def commit(self, position: Position, state: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Commit a copy of this rank's state if all ranks finished the mini-batch. Collective.

        Does nothing unless the run continues on failure.

        Raises:
            RanksLostError: if a rank has failed (on all ranks).
        """
        if not self.continues_on_failure:
            return
        if not fault_tolerance.agree(self.world, ok=True):
            raise RanksLostError("no agreement on a mini-batch")
        copies = {name: values.copy() for name, values in state().items()}
        self.committed = CommittedState(position, copies)

    def survivors(self, activity: Activity, reason: str) -> "RankGroup | None":
        """Return the rank group of the complete replicas; None on all other ranks. Collective.

        Raises:
            RunError: if no replica is complete, or if MPI fails twice in a mini-batch without a
                lost rank (on all ranks).
        """
        alive, ranks = fault_tolerance.shrink(self.world)
        activity.restart(alive.rank)
        layout = self.config.layout
        replicas = layout.complete_replicas(ranks)
        if not replicas:
            raise RunError("too many ranks lost: no replica is complete. Use --resume latest.")
        remaining = [rank for rank in ranks if layout.place(rank).replica in replicas]
        world = fault_tolerance.split_off(alive, stays=self.world.rank in remaining)
        if world is None:
            return None
        lost = [rank for i, rank in enumerate(self.original_ranks) if i not in remaining]
        mini_batches = self.committed.position.mini_batches if self.committed else 0
        loss = RankLoss(mini_batches, lost)
        if not lost and loss in self.rank_losses:
            raise RunError(f"MPI failed twice with no rank lost: {reason}. Use --resume latest.")
        return replace(
            self,
            world=world,
            config=replace(self.config, replicas=len(replicas)),
            original_ranks=[self.original_ranks[rank] for rank in remaining],
            rank_losses=[*self.rank_losses, loss],
            comms=(),
        )

    def expand_to_initial_ranks(self, values: np.ndarray) -> np.ndarray:
        """Return values [ranks, ...] as [initial_size, ...], with NaN for lost ranks."""
        expanded = np.full((self.initial_size, *values.shape[1:]), np.nan)
        expanded[self.original_ranks] = values
        return expanded

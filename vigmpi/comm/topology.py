from dataclasses import dataclass

from mpi4py import MPI

from vigmpi.comm.waiting import wait
from vigmpi.layout.layout import Layout, Place


@dataclass(frozen=True)
class Topology:
    """The communicators of one rank.

    Attributes:
        world: all ranks of the layout, in its rank order.
        pipeline: all stages of this rank's replica and part.
        replicas: this rank's stage and part in all replicas.
        parts: all parts of this rank's stage and replica.
        copies: this rank's stage in all replicas and parts, which have the same weights.
        host: all ranks of this host.
        place: replica, stage and part of this rank.
        previous_stage, next_stage: neighbouring stages' ranks in `pipeline`, or MPI.PROC_NULL.
    """

    world: MPI.Cartcomm
    pipeline: MPI.Intracomm
    replicas: MPI.Intracomm
    parts: MPI.Intracomm
    copies: MPI.Intracomm
    host: MPI.Comm
    place: Place
    previous_stage: int
    next_stage: int

    @property
    def comms(self) -> tuple[MPI.Comm, ...]:
        return self.world, self.pipeline, self.replicas, self.parts, self.copies, self.host


def make_topology(world: MPI.Intracomm, layout: Layout) -> Topology:
    """Create the communicators of a layout that has as many ranks as `world`. Collective."""
    # Ranks start at different times, and Create_cart would spin until the last one arrives.
    wait(world.Ibarrier())
    cart = world.Create_cart(layout.shape)
    pipeline = cart.Sub([False, True, False])
    previous_stage, next_stage = pipeline.Shift(0, 1)
    return Topology(
        world=cart,
        pipeline=pipeline,
        replicas=cart.Sub([True, False, False]),
        parts=cart.Sub([False, False, True]),
        copies=cart.Sub([True, False, True]),
        host=cart.Split_type(MPI.COMM_TYPE_SHARED),
        place=layout.place(cart.rank),
        previous_stage=previous_stage,
        next_stage=next_stage,
    )

from dataclasses import dataclass

from mpi4py import MPI

from vigmpi.comm.waiting import wait
from vigmpi.layout.layout import Layout, Place


@dataclass(frozen=True)
class Topology:
    """The communicators of one rank.

    Attributes:
        world: all ranks of the layout, in its rank order.
        pipeline: the stages of this rank's replica.
        replicas: the same stage in every replica.
        host: the ranks that share this rank's memory.
        previous_stage, next_stage: the neighbouring stages' ranks in `pipeline`, or MPI.PROC_NULL.
    """

    world: MPI.Cartcomm
    pipeline: MPI.Intracomm
    replicas: MPI.Intracomm
    host: MPI.Comm
    place: Place
    previous_stage: int
    next_stage: int

    @property
    def comms(self) -> tuple[MPI.Comm, ...]:
        return self.world, self.pipeline, self.replicas, self.host


def make_topology(world: MPI.Intracomm, layout: Layout) -> Topology:
    # Ranks come here as they have started up, and Create_cart spins until the last one has.
    wait(world.Ibarrier())
    cart = world.Create_cart([layout.replicas, layout.stages])
    pipeline = cart.Sub([False, True])
    previous_stage, next_stage = pipeline.Shift(0, 1)
    return Topology(
        world=cart,
        pipeline=pipeline,
        replicas=cart.Sub([True, False]),
        host=cart.Split_type(MPI.COMM_TYPE_SHARED),
        place=layout.place(cart.rank),
        previous_stage=previous_stage,
        next_stage=next_stage,
    )

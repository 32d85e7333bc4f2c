"""Schedules: generators of a stage's work in a training step, by name."""

from collections.abc import Callable, Iterator

from vigmpi.schedule.action import Action
from vigmpi.schedule.gpipe import gpipe

# Function from a stage, the number of stages and the number of micro-batches to the forward and
# backward actions of that stage. Each kind takes the micro-batches in ascending order, because
# the order of summation fixes the bits of the gradients.
Schedule = Callable[[int, int, int], Iterator[Action]]

SCHEDULES: dict[str, Schedule] = {"gpipe": gpipe}

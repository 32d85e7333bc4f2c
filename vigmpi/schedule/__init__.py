"""Schedules: generators of a stage's actions in a step, and the insertion of their messages."""

from collections.abc import Callable, Iterator

from vigmpi.phase import Phase
from vigmpi.schedule.action import Action, Kind
from vigmpi.schedule.gpipe import forward_only, gpipe
from vigmpi.schedule.messages import with_messages

__all__ = ["SCHEDULES", "Action", "Kind", "Schedule", "with_messages"]

Schedule = Callable[[int, int, int], Iterator[Action]]

SCHEDULES: dict[Phase, Schedule] = {Phase.TRAIN: gpipe, Phase.TEST: forward_only}

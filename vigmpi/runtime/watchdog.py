import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import format_exc

from mpi4py import MPI

from vigmpi.comm.lines import Lines, open_lines
from vigmpi.comm.waiting import wait
from vigmpi.comm.world import end_world
from vigmpi.errors import InputError, RunError
from vigmpi.host import end_process
from vigmpi.layout import Layout
from vigmpi.runtime.activity import Activity
from vigmpi.runtime.beat import INTERVAL_S, SIZE_BYTES, Beat, Word
from vigmpi.runtime.judge import Judge, judges, standstill_bound

_LAST_WORD_S = 2.0
_CAUSE_S = 1.0  # for a judge to end the run, where MPI failed because another rank died
_READ_BYTES = 4096


@contextmanager
def watchdog(
    world: MPI.Intracomm,
    layout: Layout,
    activity: Activity,
    silence_s: float,
    standstill_s: float | None,
    *,
    mpi_tells: bool = False,
) -> Iterator[None]:
    """End the run, and say why, where a rank dies, stops or doesn't get on. Collective.

    A thread on each rank sends a sign of life a second to the ranks that judge; it works while
    the main thread waits in MPI. Leaving the block without an error waits for all ranks.

    Args:
        activity: what this rank's main thread is doing.
        silence_s: a rank without a sign for so long counts as stopped.
        standstill_s: some rank must get on within so long; None: as `standstill_bound` has it.
        mpi_tells: leave ranks that died to MPI, which tells of them; make those that stopped on
            the judge's host such ones.
    """
    lines = open_lines(world, judges(world.size))
    if lines is None:
        if world.rank == 0:
            print("warning: no watchdog: some ranks can't connect over TCP", file=sys.stderr)
        yield
        return
    judge = Judge(
        world.rank, layout, lines.processes, silence_s, time.monotonic(), may_lose=mpi_tells
    )
    thread = _Watchdog(lines, judge, activity, standstill_s, mpi_tells=mpi_tells)
    thread.start()
    last_word = Word.TOLD  # by whoever catches the error
    try:
        yield
        with activity("end"), suppress(*[MPI.Exception] * mpi_tells):
            wait(world.Ibarrier())
        last_word = Word.GOODBYE
    except (InputError, RunError):  # on all ranks alike
        last_word = Word.GOODBYE
        raise
    except MPI.Exception:
        if not mpi_tells:
            time.sleep(_CAUSE_S)
        raise
    finally:
        thread.leave(last_word)


class _Watchdog(threading.Thread):
    def __init__(
        self,
        lines: Lines,
        judge: Judge,
        activity: Activity,
        standstill_s: float | None,
        *,
        mpi_tells: bool,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._lines = lines
        self._judge = judge
        self._activity = activity
        self._standstill_s = standstill_s
        self._mpi_tells = mpi_tells
        self._unread: dict[socket.socket, bytes] = {}
        self._last_word: Word | None = None
        self._wake, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        for rank, line in [*lines.up.items(), *lines.down.items()]:
            self._selector.register(line, selectors.EVENT_READ, (line, rank))

    def leave(self, word: Word) -> None:
        """Say a last word to the judges, and end the thread."""
        self._last_word = word
        self._waker.send(b"!")
        self.join(_LAST_WORD_S)

    def run(self) -> None:
        try:
            self._watch()
        except BaseException:  # unwatched, a run could hang
            end_world(f"the watchdog of rank {self._activity.rank} failed\n{format_exc()}")

    def _watch(self) -> None:
        due = time.monotonic()
        while self._last_word is None:
            events = self._selector.select(max(0.0, due - time.monotonic()))
            ended = [self._read(*key.data) for key, _ in events if key.data is not None]
            if any(ended) or time.monotonic() >= due:
                due = time.monotonic() + INTERVAL_S
                self._beat(Word.ALIVE)
                self._judge_all()
        self._beat(self._last_word)
        for line in [*self._lines.up.values(), *self._lines.down.values()]:
            line.close()

    def _judge_all(self) -> None:
        now = time.monotonic()
        for rank in self._judge.stopped(now) if self._mpi_tells else []:
            if end_process(self._lines.processes[rank]):
                self._judge.lose(rank)
        bound = standstill_bound(self._standstill_s, tuple(self._activity.step_s))
        message = self._judge.verdict(now, bound)
        if message and self._last_word is None:
            self._beat(Word.TOLD)
            end_world(message)

    def _beat(self, word: Word) -> None:
        """To the judges, this rank's own among them; a last word to all that listen."""
        now = self._activity.now
        beat = Beat(word, self._activity.rank, now._replace(since=time.perf_counter() - now.since))
        self._judge.hear(beat, time.monotonic())
        lines = [*self._lines.up.values()]
        if word is not Word.ALIVE:
            lines += self._lines.down.values()
        for line in lines:
            with suppress(OSError):  # full, or gone: the next read tells
                line.send(beat.pack())

    def _read(self, line: socket.socket, rank: int) -> bool:
        """Take what has come; whether the line has ended."""
        try:
            data = line.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(line)
            self._judge.lose(rank)
            return True
        data = self._unread.pop(line, b"") + data
        whole = len(data) - len(data) % SIZE_BYTES
        self._unread[line] = data[whole:]
        for start in range(0, whole, SIZE_BYTES):
            beat = Beat.unpack(data[start : start + SIZE_BYTES])
            self._judge.hear(beat, time.monotonic())
        return False

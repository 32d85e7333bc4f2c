"""`vigmpi load-test`: latencies and rates of a program that answers requests."""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from vigmpi.cli.config import LoadTestConfig
from vigmpi.commands.latency import Latency, summarize
from vigmpi.errors import InputError, RunError, error_reason
from vigmpi.host import processor_name
from vigmpi.standard_streams import print_result

_SEARCH_STEPS = 6
_HIGHEST = 1.2  # rate at which the search begins, as a share of the capacity
_HEADER = (
    "load            images/s  images a batch   p50, ms   p95, ms   p99, ms  maximum, ms  queue"
)


def load_test(config: LoadTestConfig) -> None:
    """Run a program under each load, and print and record its times.

    Raises:
        InputError: if the record cannot be written, or the program cannot be started or refuses
            its input.
        RunError: if the program fails.
    """
    with _new_record(config) as file:
        test = _LoadTest(config, file)
        print_result(_HEADER)
        capacity = max(test.closed_loop(number).images_per_s for number in config.in_flight)
        for rate in config.rates:
            test.open_loop(rate)
        if config.bound_ms:
            goodput = test.largest_rate(capacity, config.bound_ms / 1000)
            file.attrs["goodput_per_s"] = goodput
            print_result(f"largest rate with a p99 of {config.bound_ms:g} ms: {goodput:.4g} per s")
    print_result(f"record: {config.output}")


@contextmanager
def _new_record(config: LoadTestConfig) -> Iterator[h5py.File]:
    try:
        file = h5py.File(config.output, "w" if config.overwrite else "x")
    except OSError as error:
        problem = "it exists" if config.output.exists() else error_reason(error)
        raise InputError(
            f"cannot write the record: {config.output} ({problem}). Use --overwrite or another "
            f"--output."
        ) from error
    with file:
        file.attrs["command"] = shlex.join(config.command)
        file.attrs["processor"] = processor_name()
        file.attrs["cores"] = len(os.sched_getaffinity(0))
        file.attrs["seed"] = config.seed
        file.attrs["warm_up"] = config.warm_up
        yield file


class _LoadTest:
    def __init__(self, config: LoadTestConfig, file: h5py.File) -> None:
        self._config = config
        self._file = file

    def closed_loop(self, in_flight: int) -> Latency:
        """Return the result with as many requests in flight on each replica."""
        flags = ["--in-flight", str(in_flight), "--requests", str(self._config.requests)]
        return self._run(f"{in_flight} in flight", flags, in_flight=in_flight)

    def open_loop(self, rate: float) -> Latency:
        """Return the result with Poisson arrivals at a rate per second."""
        random = np.random.default_rng(self._config.seed)
        arrivals = random.exponential(1 / rate, self._config.requests).cumsum()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "arrivals.npy")
            np.save(path, arrivals)
            return self._run(f"{rate:.4g} per s", ["--arrivals", str(path)], rate=rate)

    def largest_rate(self, capacity: float, bound_s: float) -> float:
        """Return the largest rate found whose p99 is within a bound, by bisection; 0 if none is."""
        low, high = 0.0, _HIGHEST * capacity
        for _ in range(_SEARCH_STEPS):
            rate = (low + high) / 2
            if self.open_loop(rate).p99 <= bound_s:
                low = rate
            else:
                high = rate
        return low

    def _run(self, load: str, flags: Sequence[str], **attributes: float) -> Latency:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "times.npy")
            _run_program([*self._config.command, *flags, "--times", str(path)])
            times = np.load(path, allow_pickle=False)
        latency = summarize(times, self._config.warm_up)
        group = self._file.create_group(f"{len(self._file):03} {load}")
        group.create_dataset("times", data=times).attrs["unit"] = "s"
        group.attrs.update(attributes)
        group.attrs.update(latency._asdict())
        self._file.flush()
        p50, p95, p99, maximum = (1000 * seconds for seconds in latency[1:5])
        print_result(
            f"{load:14}{latency.images_per_s:10.1f}{latency.batch:16.2f}{p50:10.2f}{p95:10.2f}"
            f"{p99:10.2f}{maximum:13.2f}{latency.queue:7}"
        )
        return latency


def _run_program(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise InputError(
            f"cannot start the program: {command[0]} ({error_reason(error)}). Use the command of "
            f"vigmpi infer or vigmpi_infer behind --."
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="backslashreplace").splitlines()
        telling = [line for line in lines if "error: " in line]
        kind = InputError if done.returncode == 2 else RunError
        raise kind(
            f"the program failed: {command[0]}, status {done.returncode} "
            f"({[*telling, *lines, 'no message'][0]:.300}). Try its command alone."
        )

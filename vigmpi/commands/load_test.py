"""`vigmpi load-test`: latencies and rates of a program that answers requests."""

import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from vigmpi.cli.config import LoadTestConfig
from vigmpi.commands.latency import Latency, summarize
from vigmpi.commands.output_path import exists_and_fits
from vigmpi.errors import InputError, RunError, error_reason
from vigmpi.hdf5_strings import escaped
from vigmpi.host import num_cores, processor_name
from vigmpi.standard_streams import print_result

_SEARCH_STEPS = 6
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
    _check_output(config)
    test = _LoadTest(config)
    capacity = max(test.closed_loop(number).images_per_s for number in config.in_flight)
    for rate in config.rates:
        test.open_loop(rate)
    if config.bound_ms:
        goodput = test.largest_rate(capacity, config.bound_ms / 1000)
        print_result(f"largest rate with a p99 of {config.bound_ms:g} ms: {goodput:.4g} per s")
        test.record_goodput(goodput)
    print_result(f"record: {config.output}")


def _check_output(config: LoadTestConfig) -> None:
    output = config.output
    exists, fits = exists_and_fits(output)
    if not fits:
        raise InputError(f"cannot write the record: {output}. Use --output with another path.")
    if exists and not config.overwrite:
        raise InputError(f"record exists: {output}. Use --overwrite or another --output.")


class _LoadTest:
    """Loads of one program; the file is written after the first one."""

    def __init__(self, config: LoadTestConfig) -> None:
        self._config = config
        self._num_loads = 0

    def closed_loop(self, in_flight: int) -> Latency:
        """Return the result with as many requests in flight on each replica."""
        flags = ["--in-flight", str(in_flight), "--requests", str(self._config.requests)]
        return self._run(f"{in_flight} in flight", flags, in_flight=in_flight)

    def open_loop(self, rate: float) -> Latency:
        """Return the result with Poisson arrivals at a rate per second."""
        random = np.random.default_rng(self._config.seed)
        arrivals = random.exponential(1 / rate, self._config.requests).cumsum()
        with self._folder() as folder:
            path = Path(folder, "arrivals.npy")
            try:
                np.save(path, arrivals)
            except OSError as error:
                raise _not_writable(path, error) from error
            return self._run(f"{rate:.4g} per s", ["--arrivals", str(path)], rate=rate)

    def largest_rate(self, capacity: float, bound_s: float) -> float:
        """Return the largest rate found whose p99 is within a bound, by bisection; 0 if none is.

        Rates above the capacity do not last, whatever their first requests' latencies are.
        """
        low, high = 0.0, capacity
        for _ in range(_SEARCH_STEPS):
            rate = (low + high) / 2
            if self.open_loop(rate).p99 <= bound_s:
                low = rate
            else:
                high = rate
        return low

    def record_goodput(self, goodput: float) -> None:
        try:
            with h5py.File(self._config.output, "a") as file:
                file.attrs["goodput_per_s"] = goodput
        except OSError as error:
            raise _not_writable(self._config.output, error) from error

    def _folder(self) -> "tempfile.TemporaryDirectory[str]":
        """Return a folder beside the record, which ranks on other hosts can read."""
        parent = self._config.output.absolute().parent
        try:
            return tempfile.TemporaryDirectory(dir=parent, prefix=".vigmpi-")
        except OSError as error:
            raise _not_writable(self._config.output, error) from error

    def _run(self, load: str, flags: Sequence[str], **attributes: float) -> Latency:
        with self._folder() as folder:
            path = Path(folder, "times.npy")
            _run_program([*self._config.command, *flags, "--times", str(path)])
            times = _read_times(path, self._config.requests)
        latency = summarize(times, self._config.warm_up)
        if not self._num_loads:
            print_result(_HEADER)
        self._record(f"{self._num_loads:03} {load}", times, {**attributes, **latency._asdict()})
        self._num_loads += 1
        p50, p95, p99, maximum = (1000 * seconds for seconds in latency[1:5])
        print_result(
            f"{load:14}{latency.images_per_s:10.1f}{latency.batch:16.2f}{p50:10.2f}{p95:10.2f}"
            f"{p99:10.2f}{maximum:13.2f}{latency.queue:7}"
        )
        return latency

    def _record(self, name: str, times: np.ndarray, attributes: Mapping[str, float]) -> None:
        config = self._config
        try:
            with h5py.File(config.output, "a" if self._num_loads else "w") as file:
                file.attrs["command"] = escaped(shlex.join(config.command))
                file.attrs.update(processor=processor_name(), cores=num_cores())
                file.attrs.update(seed=config.seed, warm_up=config.warm_up)
                group = file.create_group(name)
                group.create_dataset("times", data=times).attrs["unit"] = "s"
                group.attrs.update(attributes)
        except OSError as error:
            raise _not_writable(config.output, error) from error


def _not_writable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write the record: {path} ({error_reason(error)}). Use --output with another path."
    )


def _read_times(path: Path, num_requests: int) -> np.ndarray:
    try:
        times = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        times = np.empty(0)
    if times.ndim != 2 or len(times) != num_requests or times.shape[1] < 3:
        raise InputError(
            f"no times of {num_requests} requests: the program ignored its load or --times. Use "
            f"the command of vigmpi infer or vigmpi_infer behind --."
        )
    return times


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

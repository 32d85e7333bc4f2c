"""MPI ranks that run functions of tests."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from tests.launching import mpiexec, start

_START_S = 30
_EXIT_S = 5


class Ranks:
    """The ranks of one real `mpiexec`, which run one function after another."""

    def __init__(self, number: int, environ: Mapping[str, str] | None = None) -> None:
        self._log, self._log_start = tempfile.TemporaryFile("w+"), 0  # noqa: SIM115
        command = [*mpiexec(number), sys.executable, "-m", "tests.on_rank"]
        self.process = start(command, environ=environ, stdin=subprocess.PIPE, stderr=self._log)

    def begin(
        self, function: Callable[..., None], timeout: float, arguments: Mapping[str, Any]
    ) -> None:
        """Start a module's function with these arguments on all ranks."""
        assert self.process.stdin
        call = [function.__module__, function.__name__, timeout, arguments]
        self._log_start = self._log.seek(0, os.SEEK_END)
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()

    def call(
        self, function: Callable[..., None], timeout: float, arguments: Mapping[str, Any]
    ) -> str | None:
        """Run a function on all ranks; if any fails, end all and return their error output."""
        self.begin(function, timeout, arguments)
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ready = selector.select(timeout + _START_S)
        if ready and self.process.stdout.readline() == "done\n":
            return None
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_EXIT_S)
        return self.end()

    def end(self) -> str:
        """Kill the remaining processes and return the error output of the last call."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        with self._log as log:
            log.seek(self._log_start)
            return log.read()

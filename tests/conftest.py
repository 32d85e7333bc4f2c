import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.launching import finish, mpiexec, start

OnRanks = Callable[..., None]


@pytest.fixture
def on_ranks() -> OnRanks:
    """Run a module's function on every rank of a real `mpiexec`; fail where any rank fails."""

    def run(
        ranks: int,
        function: Callable[..., None],
        *,
        timeout: float = 240,
        environ: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        name = [function.__module__, function.__name__]
        call = [sys.executable, "-m", "tests.on_rank", *name, json.dumps(arguments)]
        process = start([*mpiexec(ranks), *call, str(timeout - 5)], environ=environ)
        done = finish(process, timeout)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    return run

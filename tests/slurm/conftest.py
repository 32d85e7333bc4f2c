import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.slurm.cluster import cluster, missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[Mapping[str, str]]:
    """The environment of a running cluster; skips where there can be none.

    With VIGMPI_NEED_SLURM set (as in CI) it fails instead.
    """
    if reason := missing():
        if os.environ.get("VIGMPI_NEED_SLURM"):
            pytest.fail(reason)
        pytest.skip(f"no Slurm to test with: {reason}")
    # A short path: it holds Unix sockets.
    folder = tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)
    with folder as base, cluster(Path(base)) as environment:
        yield environment

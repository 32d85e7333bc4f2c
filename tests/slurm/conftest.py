import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.slurm.cluster import cluster, unavailable_reason


@pytest.fixture(scope="session")
def slurm() -> Iterator[Mapping[str, str]]:
    """Yield the environment of a running cluster; skip the test if none can be started.

    If VIGMPI_NEED_SLURM is set, as in CI, the test fails instead.
    """
    if reason := unavailable_reason():
        if os.environ.get("VIGMPI_NEED_SLURM"):
            pytest.fail(reason)
        pytest.skip(f"no Slurm cluster: {reason}")
    # tmp_path could exceed the length limit of Unix socket paths.
    folder = tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)
    with folder as base, cluster(Path(base)) as environment:
        yield environment

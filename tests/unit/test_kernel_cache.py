import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.launching import finish, start
from vigmpi.kernel_cache import choose_kernel_cache

NOWHERE = "/proc/vigmpi"  # cannot be created, not even by root


def test_a_folder_that_can_be_written_is_kept(tmp_path: Path) -> None:
    for environ in ({"NUMBA_CACHE_DIR": str(tmp_path / "new" / "cache")}, {"HOME": "/nowhere"}):
        before = dict(environ)
        assert choose_kernel_cache(environ) == ""
        assert environ == before


def test_another_folder_is_taken_if_the_usual_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = tmp_path / f"vigmpi-{os.getuid()}"
    for home, expected in ((tmp_path / "home", tmp_path / "home/.cache/vigmpi"), (NOWHERE, mine)):
        environ = {"NUMBA_CACHE_DIR": NOWHERE, "HOME": str(home)}
        line = choose_kernel_cache(environ)
        assert environ["NUMBA_CACHE_DIR"] == str(expected)
        assert line == (
            f"note: compiled kernels are kept in {expected}, because {NOWHERE} is not writable"
        )
    mine.chmod(0o777)  # others could have put code there
    environ = {"NUMBA_CACHE_DIR": NOWHERE, "HOME": NOWHERE}
    assert "compiled at each start" in choose_kernel_cache(environ)
    assert "NUMBA_CACHE_DIR" not in environ


def test_kernels_work_without_a_cache() -> None:
    program = """
import numba.core.caching
numba.core.caching.CompileResultCacheImpl._locator_classes = []
import numpy as np
from vigmpi.kernels import planes
assert planes.sums.stats.cache_path is None
bands, x, s = np.array([0, 5]), np.ones((2, 3, 5), "f4"), np.zeros((2, 1, 3))
planes.sums(0, 2, bands, x, s)
assert (s == 5).all()
"""
    done = finish(start([sys.executable, "-c", program]), timeout=100)
    assert done.returncode == 0, done.stderr

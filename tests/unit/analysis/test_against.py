from pathlib import Path

import h5py
import numpy as np
import pytest

from analysis.bench import against

HERE, OTHER = Path("/here"), Path("/other")


def alternate(
    monkeypatch: pytest.MonkeyPatch, noise: float, limit_s: float
) -> tuple[list[Path], dict[str, np.ndarray]]:
    """Alternate with simulated measurements; return the measured checkouts and the seconds."""
    random, calls = np.random.default_rng(0), []

    def measure(checkout: Path) -> list[float]:
        calls.append(checkout)
        seconds = np.array([1.0, 2.0, 3.0]) * (1.1 if checkout is HERE else 1.0)
        return list(seconds * random.normal(1, noise, 3))

    monkeypatch.setattr(against, "_measure", measure)
    monkeypatch.setattr(against, "MAX_SECONDS", limit_s)
    return calls, against.alternate(HERE, OTHER)


def test_both_checkouts_take_turns_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, seconds = alternate(monkeypatch, 0.0, 60)
    assert calls[2:8] == [HERE, OTHER, OTHER, HERE, HERE, OTHER]
    assert len(calls) == 2 + 2 * against.MIN_ROUNDS
    for pairs, expected in zip(seconds.values(), ([1.1, 1], [2.2, 2], [3.3, 3]), strict=True):
        np.testing.assert_allclose(pairs, [expected] * against.MIN_ROUNDS)


def test_rounds_are_added_until_the_intervals_are_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    _, seconds = alternate(monkeypatch, 0.03, 60)
    assert len(seconds["step"]) > against.MIN_ROUNDS
    assert "undecided" not in against.table(seconds)


def test_a_wide_interval_at_the_time_limit_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    _, seconds = alternate(monkeypatch, 0.5, 0)
    assert len(seconds["step"]) == against.MIN_ROUNDS
    assert against.table(seconds).count("undecided") == 3


def test_the_seconds_of_all_rounds_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, seconds = alternate(monkeypatch, 0.0, 60)
    against.write(tmp_path / "a.h5", seconds, OTHER)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["cores"] > 0
        for name, pairs in seconds.items():
            np.testing.assert_array_equal(file[name][:], pairs)

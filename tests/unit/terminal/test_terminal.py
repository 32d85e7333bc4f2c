import numpy as np
import pytest

from vigmpi.phase import Phase
from vigmpi.terminal.tables import Statistics, gib, table
from vigmpi.terminal.terminal import Terminal


def test_the_closing_table_shows_the_statistics_of_the_study() -> None:
    seconds = {phase: Statistics() for phase in Phase}
    for value in (1.0, 2.0, 6.0):
        seconds[Phase.TRAIN].add(value)
    seconds[Phase.TEST].add(0.5)
    text = table(seconds)
    heading, train, test, remark = text.splitlines()
    assert heading.split()[-8:] == ["mean", "s", "std", "s", "min", "s", "max", "s"]
    assert train.split() == ["train", "3", "3.000", "2.646", "1.000", "6.000"]
    assert test.split() == ["test", "1", "0.500", "-", "0.500", "0.500"]
    assert "warm-up" in remark
    empty = table({Phase.TEST: Statistics()})
    assert empty.splitlines()[1].split() == ["test", "0", "-", "-", "-", "-"]


def test_statistics_equal_those_of_all_values() -> None:
    values = np.random.default_rng().lognormal(size=1000) + 1e6
    statistics = Statistics()
    for value in values:
        statistics.add(float(value))
    assert statistics.number == 1000
    assert statistics.mean == pytest.approx(values.mean(), rel=1e-12)
    assert statistics.deviation == pytest.approx(values.std(ddof=1), rel=1e-6)
    assert (statistics.minimum, statistics.maximum) == (values.min(), values.max())


@pytest.mark.parametrize("progress", ["lines", "bar", "off"])
def test_progress_goes_to_standard_error(capfd: pytest.CaptureFixture[str], progress: str) -> None:
    terminal = Terminal(progress)
    terminal.begin(Phase.TRAIN, epoch=0, epochs=3, done=0, remaining=2)
    terminal.step(num_images=10, loss=4.0, accuracy=0.5)
    terminal.step(num_images=30, loss=2.0, accuracy=0.1)
    terminal.end()
    out, err = capfd.readouterr()
    assert out == ""
    if progress == "off":
        assert err == ""
    else:
        assert "loss 2.5, accuracy 20.0%, 40 images" in err  # means over the images
    if progress == "lines":
        assert "train 1/3  step 1/2  loss 4  " in err
    if progress == "bar":
        assert "train 1/3 |" in err


def test_bytes_are_shown_in_gib() -> None:
    assert gib(3 * 2**29) == "1.50 GiB"

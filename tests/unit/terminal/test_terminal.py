import pytest

from vigmpi.phase import Phase
from vigmpi.terminal.tables import gib, table
from vigmpi.terminal.terminal import Terminal


def test_the_closing_table_shows_the_statistics_of_the_study() -> None:
    text = table({Phase.TRAIN: [1.0, 2.0, 6.0], Phase.TEST: [0.5]})
    heading, train, test, remark = text.splitlines()
    assert heading.split()[-8:] == ["mean", "s", "std", "s", "min", "s", "max", "s"]
    assert train.split() == ["train", "3", "3.000", "2.646", "1.000", "6.000"]
    assert test.split() == ["test", "1", "0.500", "-", "0.500", "0.500"]
    assert "warm-up" in remark
    assert table({Phase.TEST: []}).splitlines()[1].split() == ["test", "0", "-", "-", "-", "-"]


@pytest.mark.parametrize("progress", ["lines", "bar", "off"])
def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str], progress: str) -> None:
    terminal = Terminal(progress)
    terminal.begin(Phase.TRAIN, epoch=0, epochs=3, done=0, remaining=2)
    terminal.step(num_images=10, loss=4.0, accuracy=0.5)
    terminal.step(num_images=30, loss=2.0, accuracy=0.1)
    terminal.end()
    out, err = capsys.readouterr()
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

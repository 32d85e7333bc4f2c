"""Training runs from the command line, at the study's model size with few images."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.launching import ROOT, finish, start, steps_done, vigmpi, wait_until
from tests.weights import assert_equal_weights
from vigmpi.checkpoint.search import folder_of

TIMINGS = ["data_s", "forward_s", "backward_s", "parts_s", "receive_wait_s", "send_wait_s"]
TIMINGS += ["gradient_sum_s", "agreement_s", "statistics_s", "optimizer_s"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Record, standard output and standard error of a short run of the README's command."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    layout = ["--stages", "2", "--replicas", "2", "--chunks", "5"]
    length = ["--batch-size", "100", "--steps", "3", "--test-steps", "2", "--epochs", "1"]
    command = vigmpi(*layout, *length, "--dataset", "digits", "--record", str(path), ranks=4)
    done = finish(start(command), timeout=200)
    assert done.returncode == 0, done.stderr
    return path, done.stdout, done.stderr


def test_the_terminal_describes_the_run_and_ends_with_a_table(run: tuple[Path, str, str]) -> None:
    path, out, err = run
    first, *_ = err.splitlines()
    assert first.startswith("data: digits (scikit-learn's handwritten digits")
    assert "layout: 2 stages (blocks 4|4) x 2 replicas = 4 ranks on 1 host, threads" in err
    assert "mini-batches of 100 images per replica in 5 micro-batches\n" in err
    assert "memory: forecast " in err
    assert "train 1/1  step 1/3  loss " in err
    assert "test  1/1  done: loss " in err
    lines = out.splitlines()
    assert lines[0].startswith("train: % of a mini-batch's ")
    assert [line.split()[0] for line in lines[1:4]] == ["stage", "0", "1"]
    head = next(i for i, line in enumerate(lines) if line.startswith("phase "))
    assert lines[head + 1].split()[:2] == ["train", "2"]
    assert lines[head + 2].split()[:2] == ["test", "1"]
    assert "peak memory: " in out
    assert lines[-1] == f"record: {path}"


def test_the_record_contains_its_metadata(run: tuple[Path, str, str]) -> None:
    with h5py.File(run[0]) as file:
        assert file.attrs["steps_done"] == 5
        assert file.attrs["dataset"].startswith("digits")
        assert file.attrs["replicas_bit_equal"]
        settings = dict(file["configuration"].attrs)
        assert (settings["stages"], settings["replicas"], settings["chunks"]) == (2, 2, 5)
        assert settings["split"].tolist() == [4, 4]
        assert (settings["lr"], settings["lr_schedule"]) == (3e-3, "cosine")
        assert {"torch", "torch-geometric", "mpi4py", "mpi"} <= set(file["versions"].attrs)
        ranks = {name: values[:] for name, values in file["ranks"].items()}
    assert ranks["replica"].tolist() == [0, 0, 1, 1]
    assert ranks["stage"].tolist() == [0, 1, 0, 1]
    assert ranks["first_block"].tolist() == [0, 4, 0, 4]
    assert ranks["num_blocks"].tolist() == [4] * 4
    assert ranks["threads"].tolist() == [1] * 4
    assert set(ranks["host"]) == {os.uname().nodename.encode()}


def test_hdf5_datasets_have_units_descriptions_and_named_axes(
    run: tuple[Path, str, str],
) -> None:
    names = []

    def check(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)
            assert item.attrs["unit"]
            assert item.attrs["description"]
            assert item.is_scale or all(len(dimension) == 1 for dimension in item.dims), name

    with h5py.File(run[0]) as file:
        file.visititems(check)
    assert len(names) > 25


def test_the_record_holds_every_step_of_every_rank(run: tuple[Path, str, str]) -> None:
    with h5py.File(run[0]) as file:
        steps = {name: values[:] for name, values in file["steps"].items()}
        timings = {name: values[:] for name, values in file["timings"].items()}
    assert steps["phase"].tolist() == [0, 0, 0, 1, 1]
    assert steps["step"].tolist() == [0, 1, 2, 0, 1]
    assert steps["epoch"].tolist() == [0] * 5
    assert steps["num_images"].tolist() == [200, 200, 200, 200, 97]
    assert steps["warm_up"].tolist() == [1, 0, 0, 1, 0]
    assert np.isfinite(steps["loss"]).all()
    assert set(np.round(steps["accuracy"] * steps["num_images"], 9)) <= set(range(201))
    step_s = timings.pop("step_s")
    assert sorted(timings) == sorted(TIMINGS)
    total = sum(timings.values())
    assert (total <= step_s).all()
    # The median, since a rank can lose its core between two parts of any one mini-batch.
    assert np.median(total / step_s) > 0.95
    assert (timings["backward_s"][:3] > 0).all()
    assert not timings["backward_s"][3:].any()
    assert (timings["data_s"][:, [0, 2]] > 0).all()
    assert (timings["receive_wait_s"][:, [1, 3]] > timings["data_s"][:, [1, 3]]).all()


def test_the_readmes_three_lines_read_a_record(run: tuple[Path, str, str]) -> None:
    text = (ROOT / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    variables: dict[str, Any] = {}
    exec(re.sub(r'"vigmpi-.*?"', repr(str(run[0])), code), variables)  # noqa: S102
    assert variables["steps"]["num_images"].tolist() == [200, 200, 200, 200, 97]
    assert variables["forward"].shape == (5, 4)
    for group in ("steps", "timings", "ranks", "configuration", "versions"):
        assert f"`{group}`" in text


def test_the_memory_forecast_is_close_to_the_peak_of_the_run(run: tuple[Path, str, str]) -> None:
    with h5py.File(run[0]) as file:
        forecast = file["ranks/forecast_rss_bytes"][:]
        peak = file["ranks/peak_rss_bytes"][:]
    assert (forecast > 0.9 * peak).all(), (forecast, peak)
    assert (forecast < 1.15 * peak).all(), (forecast, peak)


# In MKL's mode COMPATIBLE, which exists on every x86 processor, rounding depends on the threads.
@pytest.mark.parametrize(
    ("batch_size", "chunks", "dataset", "mkl"),
    [
        ("11", "3", "digits", "COMPATIBLE"),
        pytest.param("3", "3", "digits", "OFF", marks=pytest.mark.slow),
        pytest.param("40", "2", "synthetic", "AUTO,STRICT", marks=pytest.mark.slow),
    ],
)
def test_one_rank_on_two_cores_without_a_launcher_has_the_bits_of_two_stages(
    tmp_path: Path, batch_size: str, chunks: str, dataset: str, mkl: str
) -> None:
    losses, checkpoints = [], []
    for ranks, stages, threads in [(None, "1", "2"), (2, "2", "1")]:
        path = tmp_path / f"{stages}.h5"
        layout = ["--stages", stages, "--threads", threads, "--chunks", chunks]
        data = ["--dataset", dataset, "--batch-size", batch_size, "--record", str(path)]
        length = ["--epochs", "1", "--steps", "3", "--test-steps", "1"]
        command = vigmpi(*layout, *data, *length, ranks=ranks)
        done = finish(start(command, environ={"MKL_CBWR": mkl}), 100)
        assert done.returncode == 0, done.stderr
        with h5py.File(path) as file:
            losses.append(file["steps/loss"][:].tolist())
        checkpoints.append(folder_of(path) / "mini-batch-00000004")
    assert losses[0] == losses[1]
    assert_equal_weights(*checkpoints)


def test_the_steps_of_a_run_are_readable_while_it_runs_and_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    flags = ["--batch-size", "2", "--blocks", "1", "--record", str(path)]
    process = start(vigmpi("--stages", "1", "--replicas", "2", *flags, ranks=2))

    wait_until(lambda: steps_done(path) >= 20)
    num_seen = steps_done(path)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with h5py.File(path) as file:
        done = file.attrs["steps_done"]
        assert done >= num_seen
        assert file["steps/step"][:done].tolist() == list(range(done))
        assert (file["timings/step_s"][:done] > 0).all()

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from vigmpi.models.layer import MicroBatch
from vigmpi.models.model import Model
from vigmpi.models.normalization import LinearBeforeNorm, MicroBatchNorm, merge_moments
from vigmpi.models.study.config import ViGConfig
from vigmpi.models.study.layers import study_layers
from vigmpi.pipeline.running_statistics import RunningStatistics
from vigmpi.pipeline.stage import Stage

SMALL = ViGConfig(blocks=2, grapher_hidden=5, ffn_hidden=7, head_hidden=6, image_size=(4, 3))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.floats(-1e3, 1e3))
def test_merged_moments_are_those_of_all_values(sizes: list[int], offset: float) -> None:
    random = np.random.default_rng(sum(sizes))
    groups = [random.normal(offset, 2, size=(size, 3)) for size in sizes]
    full = [g for g in groups if len(g)]
    if not full:
        with pytest.raises(ValueError, match="empty"):
            merge_moments(np.array(sizes), np.zeros((len(sizes), 3)), np.zeros((len(sizes), 3)))
        return
    zeros = np.zeros(3)
    mean, variance = merge_moments(
        np.array(sizes),
        np.array([g.mean(axis=0) if len(g) else zeros for g in groups]),
        np.array([g.var(axis=0) if len(g) else zeros for g in groups]),
    )
    np.testing.assert_allclose(mean, np.concatenate(full).mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(variance, np.concatenate(full).var(axis=0), rtol=1e-9, atol=1e-12)


def test_one_micro_batch_updates_running_statistics_as_torch_does() -> None:
    staged, plain = Model(study_layers(SMALL)), Model(study_layers(SMALL))
    statistics, stage = RunningStatistics(staged, chunks=1), Stage(staged, first=True)
    for _ in range(3):
        images = torch.rand(5, 3, 4, 3)
        stage.forward(0, images, MicroBatch(np.arange(5), 0))
        statistics.keep(0)
        statistics.update(np.array([5]), statistics.moments.numpy())
        plain(images)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(staged.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("sizes", [[3, 2, 2], [1, 1, 1, 1], [2, 2, 0]])
def test_running_statistics_are_those_of_the_mini_batch(sizes: list[int]) -> None:
    """Check the first norm, whose input does not depend on the micro-batches."""
    torch.set_default_dtype(torch.float64)
    try:
        model = Model(study_layers(SMALL))
        images = 100 + torch.rand(sum(sizes), 3, 4, 3)
        statistics = RunningStatistics(model, chunks=len(sizes))
        stage = Stage(model, first=True)
        for i, share in enumerate(images.split(sizes)):
            if len(share):
                stage.forward(i, share, MicroBatch(np.arange(len(share)), 0))
                statistics.keep(i)
        statistics.update(np.array(sizes), statistics.moments.numpy())
    finally:
        torch.set_default_dtype(torch.float32)
    linear, norm = model.layer_modules[0].get_submodule("grapher.fc1").children()
    assert isinstance(norm, MicroBatchNorm)
    values = linear(images.flatten(2).transpose(1, 2)).flatten(0, 1)
    torch.testing.assert_close(norm.running_mean, 0.1 * values.mean(dim=0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * values.var(dim=0))
    assert norm.num_batches_tracked == 1


def test_a_bias_before_a_norm_is_added_but_takes_no_gradient() -> None:
    linear, x = LinearBeforeNorm(3, 4), torch.rand(10, 3)
    y = linear(x)
    assert torch.equal(y, F.linear(x, linear.weight, linear.bias))
    nn.BatchNorm1d(4)(y).square().sum().backward()
    assert linear.bias.grad is None
    assert linear.weight.grad is not None

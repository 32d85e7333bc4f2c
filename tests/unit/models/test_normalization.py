import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from vigmpi.models.normalization import LinearBeforeNorm, MicroBatchNorm, merge_moments
from vigmpi.models.study import ViG, ViGConfig
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
    features = torch.rand(5, 3, 4, 3).flatten(2)
    staged, plain = ViG(SMALL), ViG(SMALL)
    stage = Stage(staged, chunks=1, first=True)
    for _ in range(3):
        stage.forward(0, features)
        stage.update_running(np.array([5]), stage.moments.numpy())
        for layer in plain.layers():
            features = layer.forward(features, plain.graph)
        features = torch.rand(5, 3, 4, 3).flatten(2)
        torch.manual_seed(0)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(staged.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("sizes", [[3, 2, 2], [1, 1, 1, 1], [2, 2, 0]])
def test_running_statistics_are_those_of_the_mini_batch(sizes: list[int]) -> None:
    """Check the first norm, whose input does not depend on the micro-batches."""
    torch.set_default_dtype(torch.float64)
    try:
        model = ViG(SMALL)
        features = 100 + torch.rand(sum(sizes), 3, 4, 3).flatten(2)
        stage = Stage(model, chunks=len(sizes), first=True)
        for i, micro_batch in enumerate(features.split(sizes)):
            if len(micro_batch):
                stage.forward(i, micro_batch)
        stage.update_running(np.array(sizes), stage.moments.numpy())
    finally:
        torch.set_default_dtype(torch.float32)
    linear, norm = model.get_submodule("blocks.0.grapher.fc1").children()
    assert isinstance(norm, MicroBatchNorm)
    values = linear(features.transpose(1, 2)).flatten(0, 1)
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

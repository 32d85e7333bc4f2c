import numpy as np
import torch

from vigmpi.models.layer import MicroBatch
from vigmpi.models.loss import cross_entropy
from vigmpi.models.model import Model
from vigmpi.models.study.config import ViGConfig
from vigmpi.models.study.layers import study_layers
from vigmpi.pipeline.gradients import gradient_buckets
from vigmpi.pipeline.stage import Stage

SMALL = ViGConfig(blocks=2, grapher_hidden=5, ffn_hidden=7, head_hidden=6, image_size=(4, 3))


def test_gradients_stay_views_into_one_buffer_through_backward_and_adam() -> None:
    model = Model(study_layers(SMALL))
    buckets, stage = gradient_buckets(model), Stage(model, first=True)
    optimizer = torch.optim.Adam(model.parameters())
    views = {name: p.grad.data_ptr() for name, p in model.named_parameters() if p.grad is not None}
    done: list[int] = []
    for _ in range(2):
        for bucket in buckets:
            bucket.zero_()
        for i in range(2):
            logits = stage.forward(i, torch.rand(3, 3, 4, 3), MicroBatch(np.arange(3), 0))
            gradient = cross_entropy(logits, torch.tensor([1, 2, 3]), 6).gradient
            stage.backward(i, gradient, done.append)
        optimizer.step()
    assert done == [2, 1, 0] * 4  # the head first, the first block last
    assert len(views) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.data_ptr() == views[name]
    for module, bucket in zip(model.layer_modules, buckets, strict=True):
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        assert torch.equal(bucket, torch.cat(gradients))
        assert bucket.data_ptr() % 64 == 0
    storages = {bucket.untyped_storage().data_ptr() for bucket in buckets}
    assert len(storages) == 1


def test_micro_batch_losses_add_up_to_the_mini_batch_mean() -> None:
    logits, labels = torch.randn(7, 10), torch.randint(10, (7,))
    shares = [
        cross_entropy(a, b, 7)
        for a, b in zip(logits.split([4, 2, 1]), labels.split([4, 2, 1]), strict=True)
    ]
    all_logits = logits.requires_grad_()
    loss = torch.nn.functional.cross_entropy(all_logits, labels)
    loss.backward()
    assert all_logits.grad is not None
    torch.testing.assert_close(torch.tensor(sum(s.value for s in shares)), loss.detach())
    torch.testing.assert_close(torch.cat([s.gradient for s in shares]), all_logits.grad)
    assert sum(s.correct for s in shares) == int((logits.argmax(dim=1) == labels).sum())

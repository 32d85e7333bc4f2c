"""Bits of the fast backend, at the study's hidden sizes, for different numbers of threads."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vigmpi.models.loss import cross_entropy
from vigmpi.models.model import Model
from vigmpi.models.study.config import ViGConfig
from vigmpi.models.study.layers import study_layers

# Operations that copy values, or compute each from one value of every operand.
COPIES = "_to_copy clone copy_ detach diagonal expand new_empty_strided new_zeros permute select "
COPIES += "slice t unsqueeze view zeros"
ARITHMETIC = "add add_ div lerp mul rsqrt sub"
ELEMENTWISE = {*COPIES.split(), *ARITHMETIC.split()}

SMALL = ViGConfig(blocks=1, image_size=(9, 7))


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_inputs(config: ViGConfig, num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(num_images, config.channels, *config.image_size, generator=generator)
    return images, torch.randint(config.num_classes, (num_images,), generator=generator)


def train_and_evaluate(model: Model, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the results of a training step, of an evaluation and of its gradients."""
    results: dict[str, Tensor] = {}
    for phase in ("train", "test"):
        model.train(phase == "train").zero_grad()
        logits = model(images)
        loss = cross_entropy(logits, labels, len(images))
        logits.backward(loss.gradient)
        results |= {f"{phase} logits": logits.detach(), f"{phase} loss": torch.tensor(loss.value)}
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results |= {f"{phase} gradient {name}": gradient for name, gradient in gradients.items()}
    with torch.no_grad():
        results["logits without gradients"] = model(images)
    return results | {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_equal_for_any_threads(config: ViGConfig, sizes: Iterable[int]) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    print("seed", seed)
    for num_images in sizes:
        inputs = random_inputs(config, num_images, seed)
        model = Model(study_layers(config, seed=seed))
        initial = {name: values.clone() for name, values in model.state_dict().items()}
        expected: dict[str, Tensor] = {}
        for threads in (1, 2, 3, 5, 8):
            model.load_state_dict(initial)
            with torch_threads(threads):
                results = train_and_evaluate(model, *inputs)
            expected = expected or results
            assert results.keys() == expected.keys()
            for name, values in expected.items():
                assert torch.equal(results[name], values), (seed, num_images, threads, name)


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_every_result_is_bitwise_identical_for_any_number_of_threads(readout: str) -> None:
    assert_equal_for_any_threads(replace(SMALL, readout=readout), range(1, 17))


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_every_result_at_the_studys_image_size_is_bitwise_identical(readout: str) -> None:
    assert_equal_for_any_threads(ViGConfig(blocks=2, readout=readout), [*range(1, 17), 33, 67])


class SeveralThreads(TorchDispatchMode):
    """Recorder of the operations that torch may divide among threads."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if torch.get_num_threads() > 1:
            self.operations.add(operation.overloadpacket.__name__)
        return operation(*args, **kwargs or {})


def test_torch_divides_no_sum_or_product_among_threads() -> None:
    """Check the operations themselves, since not every processor's MKL shows a difference."""
    images, labels = random_inputs(SMALL, 4, seed=0)
    model = Model(study_layers(SMALL))
    with torch_threads(3), SeveralThreads() as several:
        logits = model(images)
        logits.backward(cross_entropy(logits, labels, len(images)).gradient)
        with torch.no_grad():
            model.eval()(images)
    assert several.operations <= ELEMENTWISE, several.operations - ELEMENTWISE

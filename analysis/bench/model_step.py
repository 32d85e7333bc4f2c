"""Steps of a ViG in a process of its own, one for every line that the process reads.

`StepProcess` starts such a process. Several of them can take turns, so that all sides of a
comparison see the same state of the machine, and each has its own memory.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vigmpi.host import matmul_library, peak_rss_bytes, prepare_process

if TYPE_CHECKING:
    from vigmpi.models.config import ModelConfig
    from vigmpi.models.layer import Layer

_PRODUCTS = {
    "aten::addmm",
    "aten::convolution_backward",
    "aten::mkldnn_convolution",
    "aten::mm",
    "mkldnn::_convolution_pointwise_",
}


@dataclass(frozen=True)
class Case:
    """Computation of a process.

    Attributes:
        model: key of `MODELS`, or "isotropic" for 12 blocks of `width` channels and `k` neighbours.
        side: height and width of an image in pixels; 0 for the published size.
        images: number of images of a step.
        grapher: index of the block of whose Grapher alone a step consists, or None.
        compiled: whether `torch.compile` compiles the model.
        profiled: whether torch's profiler measures the products, for which it needs some seconds.
    """

    model: str
    backend: str = "fast"
    precision: str = "fp32"
    threads: int = 1
    images: int = 8
    side: int = 0
    k: int = 9
    width: int = 192
    grapher: int | None = None
    compiled: bool = False
    profiled: bool = False


class Step(NamedTuple):
    """Seconds of a step (forward and backward) and of parts of it, and memory.

    Attributes:
        search_s: the search for neighbours; 0 for a Grapher alone.
        products_s: the libraries' products and convolutions; 0 unless profiled.
        added_bytes: growth of the peak resident size since the imports.
    """

    seconds: float
    search_s: float
    products_s: float
    added_bytes: int


class StepProcess:
    def __init__(self, case: Case) -> None:
        program = [sys.executable, "-m", "analysis.bench.model_step", json.dumps(asdict(case))]
        self._process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def step(self) -> Step:
        """Run one step.

        Raises:
            RuntimeError: if the process has failed.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        if not (answer := self._process.stdout.readline()):
            raise RuntimeError(f"a benchmark process failed with status {self._process.wait()}")
        return Step(*json.loads(answer))

    def close(self) -> None:
        self._process.communicate()


def main(case: Case) -> None:
    prepare_process()  # before torch is imported

    import torch  # noqa: PLC0415

    torch.set_num_threads(case.threads)
    import vigmpi.models.vig.zoo  # noqa: F401, PLC0415

    search_s, products_s, before = [0.0], [0.0], peak_rss_bytes()
    step = _make_step(case, search_s)
    if case.profiled:
        step = _profiled(step, products_s)
    for _ in sys.stdin:
        search_s[0] = products_s[0] = 0.0
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        parts = search_s[0], products_s[0]
        print(json.dumps([seconds, *parts, peak_rss_bytes() - before]), flush=True)


def _make_step(case: Case, search_s: list[float]) -> Callable[[], None]:
    """Return the function of a step, which adds the seconds of the search to `search_s`."""
    from vigmpi.models import MODELS  # noqa: PLC0415
    from vigmpi.models.config import ModelConfig  # noqa: PLC0415
    from vigmpi.models.model import make_layers  # noqa: PLC0415
    from vigmpi.models.vig.layers import vig_layers  # noqa: PLC0415
    from vigmpi.models.vig.variant import isotropic  # noqa: PLC0415

    library = matmul_library()
    published = MODELS["vig_ti" if case.model == "isotropic" else case.model]
    size = (case.side, case.side) if case.side else published.image_size
    config = ModelConfig(published.num_classes, size, precision=case.precision, matmul=library)
    if case.model == "isotropic":
        variant = replace(isotropic(case.width, 12), k=(case.k, case.k))
        layers = vig_layers(variant, config, backend=case.backend)
    else:
        layers = make_layers(case.model, config, backend=case.backend)
    if case.grapher is None:
        return _model_step(layers, config, case, search_s)
    [layer] = [each for each in layers if each.name == f"block {case.grapher}"]
    return _grapher_step(layer, case.images)


def _grapher_step(layer: "Layer", num_images: int) -> Callable[[], None]:
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from vigmpi.models.layer import MicroBatch  # noqa: PLC0415
    from vigmpi.models.vig.block import Grapher  # noqa: PLC0415

    [grapher] = [each for each in layer.build().train().modules() if isinstance(each, Grapher)]
    random = torch.Generator().manual_seed(1)
    values = torch.randn(num_images, *layer.inputs.shape, generator=random)
    features = layer.inputs.conform(values).requires_grad_()
    gradient, micro_batch = torch.ones_like(features), MicroBatch(np.arange(num_images), 0)

    def step() -> None:
        grapher.zero_grad()
        features.grad = None
        grapher(features, micro_batch).backward(gradient)

    return step


def _model_step(
    layers: "list[Layer]", config: "ModelConfig", case: Case, search_s: list[float]
) -> Callable[[], None]:
    import torch  # noqa: PLC0415
    from torch.nn import functional as F  # noqa: PLC0415

    from vigmpi.models.model import Model  # noqa: PLC0415
    from vigmpi.models.vig.block import Grapher  # noqa: PLC0415

    model = Model(layers).train()
    if case.compiled:
        torch._dynamo.config.recompile_limit = 64  # each block has its own constants
        forward = torch.compile(model, dynamic=False)
    else:
        forward = model
        for module in model.modules():
            if isinstance(module, Grapher):
                module.find_neighbours = _timed(module.find_nearest, search_s)
    random = torch.Generator().manual_seed(1)
    images = torch.rand(case.images, 3, *config.image_size, generator=random)
    labels = torch.arange(case.images) % config.num_classes

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(forward(images), labels).backward()

    return step


def _profiled(step: Callable[[], None], seconds: list[float]) -> Callable[[], None]:
    """Return the step, made to add the seconds of its products to the only item of a list."""
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    def profiled() -> None:
        with profile(activities=[ProfilerActivity.CPU]) as found:
            step()
        products = (each for each in found.key_averages() if each.key in _PRODUCTS)
        seconds[0] += 1e-6 * sum(each.self_cpu_time_total for each in products)

    return profiled


def _timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return the function, made to add its seconds to the only item of a list."""

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        seconds[0] += time.perf_counter() - start
        return result

    return timed


if __name__ == "__main__":
    main(Case(**json.loads(sys.argv[1])))

"""Models by name, as lists of layers."""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vigmpi.models.model import Model


@dataclass(frozen=True)
class ModelEntry:
    """Entry of `MODELS`, readable without importing torch, which takes seconds.

    Attributes:
        layers: "module:function" of the function from a `ModelConfig`, a backend and a seed to the
            model's list of layers.
        description: a phrase for help texts.
        options: fields of `ModelConfig` that the model takes beyond classes and image size.
        multiple: number of pixels of which the height and the width of an image are multiples.
        image_size, num_classes: those for which the model was published.
        divisible: true if images may be cut into parts and activations recomputed; `layers` then
            takes `graph` and `recompute`, too.
    """

    layers: str
    description: str
    options: tuple[str, ...] = ()
    multiple: int = 1
    image_size: tuple[int, int] = (32, 32)
    num_classes: int = 10
    divisible: bool = False


def _published(name: str, multiple: int, description: str) -> ModelEntry:
    options = ("conv", "drop_path", "precision", "matmul")
    layers = f"vigmpi.models.vig.zoo:{name}"
    return ModelEntry(layers, description, options, multiple, (224, 224), 1000)


MODELS: dict[str, ModelEntry] = {
    "study": ModelEntry(
        "vigmpi.models.study.layers:layers",
        "Vision GNN of the study",
        ("blocks", "readout"),
        divisible=True,
    ),
    "vig_ti": _published("vig_ti", 16, "ViG-Ti, isotropic"),
    "vig_s": _published("vig_s", 16, "ViG-S, isotropic"),
    "vig_b": _published("vig_b", 16, "ViG-B, isotropic"),
    "pvig_ti": _published("pvig_ti", 32, "Pyramid ViG-Ti"),
    "pvig_s": _published("pvig_s", 32, "Pyramid ViG-S"),
    "pvig_m": _published("pvig_m", 32, "Pyramid ViG-M"),
    "pvig_b": _published("pvig_b", 32, "Pyramid ViG-B"),
    "vig_cifar": ModelEntry(
        "vigmpi.models.vig.zoo:vig_cifar",
        "small ViG for 32-pixel images",
        ("drop_path", "precision", "matmul"),
        4,
    ),
}


def build(
    name: str = "study",
    *,
    backend: str = "fast",
    conv: str = "mr",
    num_classes: int = 10,
    image_size: tuple[int, int] = (32, 32),
    seed: int = 0,
    **options: Any,
) -> "Model":
    """Return a complete model that maps images [images, 3, height, width] to logits.

    Args:
        name: key of `MODELS`.
        backend: "fast", or "reference" for the backend that tests compare with.
        conv: graph convolution of the published ViG models: "mr", "edge", "sage" or "gin".
        num_classes: number of logits.
        image_size: height and width, in pixels.
        seed: seed of the initial weights and of random choices in training.
        options: other fields of `ModelConfig`.

    Raises:
        InputError: if the model does not take an option or the image size, or the backend not the
            precision.
    """
    from vigmpi.models.config import ModelConfig  # noqa: PLC0415 (it needs MODELS)

    config = ModelConfig(num_classes, image_size, conv=conv, **options)
    # Named, not imported, like the entries of `MODELS`.
    make_model = resolve_name("vigmpi.models.model:make_model")
    return make_model(name, config, backend=backend, seed=seed)

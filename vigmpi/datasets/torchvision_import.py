"""Import of torchvision's data sets that also works with a mismatched build of torch.

A torchvision built for another torch (for CUDA instead of the CPU, for example) fails on import
with "operator torchvision::nms does not exist", because its operators are not registered. The data
sets use none of them, so it is enough to declare the two that the import looks up.
"""

import sys
from types import ModuleType

_libraries: list[object] = []  # declarations live as long as their Library object


def torchvision_datasets() -> ModuleType:
    """Return the module `torchvision.datasets`."""
    try:
        import torchvision.datasets  # noqa: PLC0415
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators()
        import torchvision.datasets  # noqa: PLC0415
    return torchvision.datasets


def _declare_operators() -> None:
    import torch  # noqa: PLC0415

    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)

"""torchvision's data sets, also beside a torch that its compiled operators were not built for.

A torchvision built for another torch (a CUDA build beside a CPU build, say) fails on import
with "operator torchvision::nms does not exist": its own operators are not registered. The data
sets need none of them, so declaring two of them is enough. Where the pair fits, nothing is
done.
"""

import sys
from types import ModuleType

_kept: list[object] = []  # the declarations last as long as the object that made them


def torchvision_datasets() -> ModuleType:
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
    _kept.append(library)

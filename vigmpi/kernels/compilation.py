from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(*, reassoc: bool = False) -> Callable[[Function], Function]:
    """Return a decorator that compiles a kernel, which runs without the GIL.

    Compiled code is cached on disk, unless no folder for it can be written.

    Args:
        reassoc: whether sums may be evaluated in another order, in vectors.
    """
    flags: dict[str, Any] = {
        "fastmath": {"contract", "reassoc"} if reassoc else {"contract"},
        "nogil": True,
    }

    def compiled(function: Function) -> Function:
        try:
            return njit(cache=True, **flags)(function)
        except RuntimeError:  # "no locator available"
            return njit(**flags)(function)

    return compiled

"""Use of an export's library from Python."""

import ctypes
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vigmpi.errors import InputError, RunError
from vigmpi.export.compiler import LIBRARY

_INPUT = 1  # VIGMPI_INPUT


class NativeModel:
    """Layers of an export, run by its C library.

    Args:
        folder: the export, with the library that `build` has compiled.
        first, num_layers: the layers; 0 for all from `first` on.

    Raises:
        InputError: if the library or the export cannot be used.
    """

    def __init__(self, folder: Path, first: int = 0, num_layers: int = 0) -> None:
        try:
            self._library = library = ctypes.CDLL(str((folder / LIBRARY).resolve()))
        except OSError as error:
            raise InputError(
                f"cannot load the library: {folder / LIBRARY} ({error!s:.200}). Run vigmpi export "
                f"with --build."
            ) from error
        library.vigmpi_last_error.restype = library.vigmpi_class_name.restype = ctypes.c_char_p
        self._model = ctypes.c_void_p()
        path = str(folder).encode(errors="surrogateescape")
        self._check(library.vigmpi_open(path, first, num_layers, ctypes.byref(self._model)))
        self.inputs = library.vigmpi_input_values(self._model)
        self.outputs = library.vigmpi_output_values(self._model)
        self.num_layers = library.vigmpi_num_layers(self._model)
        is_double = library.vigmpi_value_bytes(self._model) == np.dtype(np.float64).itemsize
        self._dtype = np.dtype(np.float64 if is_double else np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._library.vigmpi_close(self._model)

    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return the last layer's output, [images, values], for input [images, ...]."""
        values = np.ascontiguousarray(images, self._dtype).reshape(len(images), self.inputs)
        output = np.empty((len(images), self.outputs), self._dtype)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (values, output))
        source, target = pointers
        self._check(self._library.vigmpi_run(self._model, source, len(images), target))
        return output

    def normalized(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the input of layer 0 for pixels [images, height, width, 3]."""
        values = np.empty((len(pixels), self.inputs), self._dtype)
        content = np.ascontiguousarray(pixels)
        source, target = (ctypes.c_void_p(array.ctypes.data) for array in (content, values))
        self._check(self._library.vigmpi_normalize(self._model, source, len(pixels), target))
        return values

    def class_name(self, index: int) -> str:
        name: bytes = self._library.vigmpi_class_name(self._model, index)
        return name.decode()

    def _check(self, status: int) -> None:
        if status:
            message: Any = self._library.vigmpi_last_error()
            error = InputError if status == _INPUT else RunError
            raise error(message.decode(errors="backslashreplace"))

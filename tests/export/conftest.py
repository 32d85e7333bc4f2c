from pathlib import Path

import pytest

from tests.export.exports import need_compilers
from vigmpi.export.compiler import build_c, build_program, processor_instructions


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the compiled library and program."""
    need_compilers("cc", "c++", "mpicxx")
    folder = tmp_path_factory.mktemp("built")
    build_c(folder, processor_instructions())
    build_program(folder, "mpicxx")
    return folder

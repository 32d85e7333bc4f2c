"""`vigmpi` with a data set that notes the resident memory of each rank after all imports.

`python -m tests.memory_probe` runs it; see `tests/cli/test_memory.py`.
"""

import os

from vigmpi.__main__ import run
from vigmpi.datasets import DATASETS
from vigmpi.datasets.synthetic import Synthetic
from vigmpi.host import resident_bytes


class Probe(Synthetic):
    name = "probe"

    def load(self, *, images: bool, labels: bool) -> None:  # noqa: ARG002
        (self._data_dir / f"{os.getpid()}.rss").write_text(str(resident_bytes()))


DATASETS["probe"] = "tests.memory_probe:Probe"

if __name__ == "__main__":
    run()

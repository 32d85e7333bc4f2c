"""The collapsed step's time and memory against batch size, image side and hidden width.

Each case runs in a process of its own, so that its peak is its own.
"""

import json
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

from analysis.bench.rounds import Sample
from vigmpi.host import peak_rss_bytes, prepare_process

# images, side, width of the Grapher's hidden layer (the feed-forward network's is twice that)
CASES = {
    **{f"{images} images": (images, 32, 256) for images in (100, 200, 400, 1000, 4000)},
    **{f"side {side}": (max(1, 100 * 32**2 // side**2), side, 256) for side in (32, 64, 128, 224)},
    **{f"hidden {width}": (100, 32, width) for width in (64, 128, 256, 512)},
}


class Growth(NamedTuple):
    """A case's times, and the peak of the resident size of the process."""

    sample: Sample
    peak_bytes: int


def growth(rounds: int) -> dict[str, Growth]:
    found = {}
    for name, case in CASES.items():
        program = [sys.executable, "-m", "analysis.bench.growth", *map(str, case), str(rounds)]
        answer = subprocess.run(program, check=True, capture_output=True, text=True).stdout
        seconds, peak = json.loads(answer)
        found[name] = Growth(Sample(np.array(seconds), case[0]), peak)
    return found


def main(images: int, side: int, width: int, rounds: int) -> None:
    prepare_process()

    from analysis.bench.sequential import step  # noqa: PLC0415 (torch comes after it)
    from vigmpi.models.study import ViGConfig  # noqa: PLC0415

    config = ViGConfig(image_size=(side, side), grapher_hidden=width, ffn_hidden=2 * width)
    call, _ = step(images, config)
    seconds = []
    for _ in range(1 + rounds):  # the first compiles
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    print(json.dumps([seconds[1:], peak_rss_bytes()]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Time and memory of the fast step over batch size, image side and hidden width.

Each case runs in a separate process, so that peak memory is measured per case.
"""

import json
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

from analysis.bench.rounds import Sample
from vigmpi.host import peak_rss_bytes, prepare_process

# number of images, side, width of the Grapher's hidden layer (half of the feed-forward network's)
CASES = {
    **{f"{count} images": (count, 32, 256) for count in (100, 200, 400, 1000, 4000)},
    **{f"side {side}": (max(1, 100 * 32**2 // side**2), side, 256) for side in (32, 64, 128, 224)},
    **{f"hidden {width}": (100, 32, width) for width in (64, 128, 256, 512)},
}


class Growth(NamedTuple):
    """Times of a case, and the peak resident size of its process."""

    sample: Sample
    peak_bytes: int


def growth(rounds: int) -> dict[str, Growth]:
    """Time every case, each in a process of its own."""
    results = {}
    for name, case in CASES.items():
        program = [sys.executable, "-m", "analysis.bench.growth", *map(str, case), str(rounds)]
        output = subprocess.run(program, check=True, capture_output=True, text=True).stdout
        seconds, peak = json.loads(output)
        results[name] = Growth(Sample(np.array(seconds), case[0]), peak)
    return results


def main(num_images: int, side: int, width: int, rounds: int) -> None:
    """Time one case and print its seconds and peak memory as JSON."""
    prepare_process()

    from analysis.bench.sequential import step  # noqa: PLC0415 (must follow prepare_process)
    from vigmpi.models.study.config import ViGConfig  # noqa: PLC0415

    config = ViGConfig(image_size=(side, side), grapher_hidden=width, ffn_hidden=2 * width)
    call, _ = step(num_images, config)
    seconds = []
    for _ in range(1 + rounds):  # the first round compiles
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    print(json.dumps([seconds[1:], peak_rss_bytes()]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

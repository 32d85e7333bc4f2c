import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from analysis.bench import against
from analysis.bench.growth import growth
from analysis.bench.launcher import mpiexec
from analysis.bench.rounds import Sample
from vigmpi.host import prepare_process


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench", description="Time vigmpi and its contenders in one run."
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of timed rounds")
    parser.add_argument("--output", type=Path, default=Path("bench.h5"), help="HDF5 file to write")
    parser.add_argument(
        "--against", type=Path, metavar="PATH", help="compare this checkout with another one"
    )
    arguments = parser.parse_args()
    if arguments.against:
        seconds = against.alternate(Path.cwd(), arguments.against.resolve())
        print(against.table(seconds))
        against.write(arguments.output, seconds, arguments.against)
        return
    prepare_process()

    from analysis.bench import results, sequential  # noqa: PLC0415 (must follow prepare_process)

    steps = sequential.steps(arguments.rounds)
    operations, shares = sequential.kernels(arguments.rounds)
    pipelines, bounds = _pipelines(arguments.rounds)
    measured = results.Results(
        steps, operations, shares, pipelines, bounds, growth(arguments.rounds)
    )
    print(results.tables(measured))
    results.write(arguments.output, measured)
    print(f"results: {arguments.output}")


def _pipelines(rounds: int) -> tuple[dict[str, Sample], dict[str, list[float]]]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pipelines.json"
        program = [sys.executable, "-m", "analysis.bench.pipelines", str(rounds), str(output)]
        subprocess.run([mpiexec(), "-n", "2", *program], check=True)
        seconds, bounds = json.loads(output.read_text())
    return {name: Sample(np.array(s), work) for name, (s, work) in seconds.items()}, bounds


if __name__ == "__main__":
    main()

"""A traced run for Chrome's or Perfetto's viewer: `python -m analysis.trace RECORD OUT.json`."""

import argparse
import json
from pathlib import Path
from typing import Any

from analysis.read import Record, read


def events(record: Record) -> list[dict[str, Any]]:
    """Trace Event Format: a process a replica, a thread a rank, microseconds."""
    found: list[dict[str, Any]] = []
    for rank, row in record.ranks.iterrows():
        replica = int(row.replica)
        name = {"name": f"stage {row.stage} (rank {rank} on {row.host})"}
        where = {"ph": "M", "pid": replica, "tid": int(rank)}
        found.append({**where, "name": "process_name", "args": {"name": f"replica {replica}"}})
        found.append({**where, "name": "thread_name", "args": name})
    for span in record.trace.itertuples():
        number = f" {span.micro_batch}" if span.micro_batch >= 0 else ""
        found.append(
            {
                "name": f"{span.kind}{number}",
                "cat": span.kind,
                "ph": "X",
                "pid": int(span.replica),
                "tid": int(span.rank),
                "ts": 1e6 * span.start_s,
                "dur": 1e6 * (span.end_s - span.start_s),
                "args": {"mini_batch": int(span.mini_batch)},
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.trace", description=__doc__)
    parser.add_argument("record", type=Path, help="HDF5 file of a run with --trace")
    parser.add_argument("output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    record = read(arguments.record)
    if record.trace.empty:
        parser.error(f"{arguments.record} has no trace; run vigmpi with --trace")
    arguments.output.write_text(json.dumps({"traceEvents": events(record)}))


if __name__ == "__main__":
    main()

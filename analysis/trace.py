"""Conversion of a traced run to a JSON file for Perfetto or chrome://tracing."""

import argparse
import json
from pathlib import Path
from typing import Any

from analysis.read import Record, read
from analysis.script import exit_on_input_error
from vigmpi.errors import InputError


def events(record: Record) -> list[dict[str, Any]]:
    """Return the spans in the Trace Event Format, in microseconds.

    Each replica is a process and each rank is a thread of it.
    """
    entries: list[dict[str, Any]] = []
    for rank, row in record.ranks.iterrows():
        replica = int(row.replica)
        part = f", part {row.part}" if record.ranks.part.any() else ""
        name = {"name": f"stage {row.stage}{part} (rank {rank} on {row.host})"}
        metadata = {"ph": "M", "pid": replica, "tid": int(rank)}
        entries.append({**metadata, "name": "process_name", "args": {"name": f"replica {replica}"}})
        entries.append({**metadata, "name": "thread_name", "args": name})
    for span in record.trace.itertuples():
        number = f" {span.micro_batch}" if span.micro_batch >= 0 else ""
        entries.append(
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
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.trace", description=__doc__)
    parser.add_argument("record", type=Path, help="HDF5 record of a run with --trace")
    parser.add_argument("output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    with exit_on_input_error(parser.prog):
        record = read(arguments.record)
        if record.trace.empty:
            raise InputError(f"no trace in the record: {record.path}. Run vigmpi with --trace.")
    arguments.output.write_text(json.dumps({"traceEvents": events(record)}))


if __name__ == "__main__":
    main()

"""Make jobs of what other tools recorded.

``python -m llmsched_gym.workload.convert spans.jsonl -o jobs.jsonl`` reads a file, or all files of
a folder, in one of the formats of ``docs/bring_your_jobs.md``, and writes jobs in ours. It tells
how many there are, and what was left out, mended and guessed.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from llmsched_gym.errors import printable
from llmsched_gym.workload.console import Parser, run
from llmsched_gym.workload.importers.formats import FORMATS, import_traces
from llmsched_gym.workload.inputs import given_path
from llmsched_gym.workload.traces import write_traces

PROGRAM = "convert"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: 0, or 2 after one line on stderr, with nothing written."""
    parser = Parser(
        prog="python -m llmsched_gym.workload.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", help="file or folder to read, *.gz too")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="file to write, *.gz is compressed; in a folder (jobs/) it is named by what is read",
    )
    parser.add_argument(
        "--format", metavar="NAME", help=f"{', '.join(FORMATS)}; by default as recognised"
    )
    parser.add_argument(
        "--application", metavar="NAME", help="of all jobs; by default what the records say"
    )
    options = parser.parse_args(arguments)
    return run(
        PROGRAM,
        lambda: convert(options.path, options.output, options.format, options.application),
    )


def convert(path: str, output: str, format: str | None, application: str | None) -> int:
    """Read, write and tell.

    Raises
    ------
    ValueError, OSError
        if it cannot be read, or nothing can be written there.
    """
    read, written = given_path("path", path), _output(path, output)
    if written.exists() and read.exists() and written.samefile(read):
        raise ValueError(f"--output: {written} is what is read")
    imported = import_traces(read, format, application)
    if output.endswith("/"):
        written.parent.mkdir(parents=True, exist_ok=True)
    write_traces(written, imported.jobs)
    print(imported.summary())
    for note in imported.tally.notes():
        print(printable(note))
    counts = Counter(job.application for job in imported.jobs)
    shown = ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    print(f"applications: {shown}{more}")
    print(f"{written}: written; python evaluate.py workload=traces workload.path={written}")
    return 0


def _output(path: str, output: str) -> Path:
    """The file to write; in a folder, one that is named by what is read."""
    written = given_path("--output", output)
    if not output.endswith("/") and not written.is_dir():
        return written
    stem = re.sub(r"(\.\w+)?(\.gz)?$", "", given_path("path", path).resolve().name)
    return written / f"{stem}.jobs.jsonl"


if __name__ == "__main__":
    raise SystemExit(main())

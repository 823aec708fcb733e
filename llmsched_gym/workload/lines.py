"""Files of JSON lines: which ones a path names, their lines, and what a line says."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmsched_gym.workload.inputs import other_than_file

FORMAT = "docs/workloads.md, trace format"
SUFFIXES = (".jsonl", ".jsonl.gz")
LONGEST_LINE = 2**26  # bytes


class TraceError(ValueError):
    """A malformed trace; the message is ``file:line: field: what is wrong``."""


class FieldError(ValueError):
    """``field: what is wrong``; the reader adds file and line."""


def trace_files(path: Path) -> list[Path]:
    """The file itself, or all ``*.jsonl`` and ``*.jsonl.gz`` of a folder and its sub-folders.

    They are in the order of their paths; there may be none.

    Raises
    ------
    FileNotFoundError
        if there is nothing at the path.
    TraceError
        if what is named is not a file.
    """
    try:
        kind = other_than_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file or folder") from None
    if kind != "a folder":
        _check_file(path, kind)
        return [path]
    return files_below(path, SUFFIXES)


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """All files in a folder and its sub-folders whose names end so, in the order of their paths.

    Names that begin with a dot are left out, links to folders are not followed.
    """
    files: list[Path] = []
    for inner, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = (name for name in folders if not name.startswith("."))
        files += [
            Path(inner, name)
            for name in names
            if not name.startswith(".") and name.lower().endswith(suffixes)
        ]
    files.sort()
    for file in files:
        _check_file(file, other_than_file(file))
    return files


def lines(file: Path, longest: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1; what is compressed by gzip is unpacked.

    Raises
    ------
    TraceError
        if a line has more than ``longest`` bytes (default ``LONGEST_LINE``) or the file is damaged.
    """
    most = LONGEST_LINE if longest is None else longest
    number = 0
    with file.open("rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            while line := stream.readline(most + 1):
                number += 1
                if len(line) > most:
                    raise TraceError(f"{file}:{number}: longer than {most} bytes")
                if line.strip():
                    yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(f"{file}:{number + 1}: gzip: damaged file: {error}") from None


def parsed(line: bytes) -> object:
    """What a line of JSON says; strictly: each key once, and no NaN.

    Raises
    ------
    FieldError
        if it is not so.
    """
    try:
        return json.loads(
            line.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_not_finite
        )
    except FieldError:
        raise
    except UnicodeDecodeError as error:
        raise FieldError(f"text: not UTF-8 (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise FieldError(f"JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 5,000 brackets
        raise FieldError(f"JSON: {error}") from None


def shown_json(value: object) -> str:
    """A value as JSON writes it, short, for messages."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "deeply nested brackets"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise FieldError(f"JSON: key {shown_json(key)} occurs twice")
        record[key] = value
    return record


def _not_finite(text: str) -> float:
    raise FieldError(f"JSON: {text} is no number")


def _check_file(file: Path, kind: str | None) -> None:
    if kind:
        raise TraceError(f"{file}: {kind}, not a file (see {FORMAT})")


def _raise(error: OSError) -> None:
    raise error

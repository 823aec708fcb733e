"""Files of other tools as records: JSON lines, whole JSON documents and CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.inputs import printable
from llmsched_gym.workload.lines import TraceError, lines

LONGEST_TEXT = 2**30  # bytes, of a line or a document that is no JSON lines
NANOSECONDS = ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000), (0.0, 1_000_000_000))
_DECODER = json.JSONDecoder(strict=False)
_BROKEN = "lines that are no JSON"


class Record(NamedTuple):
    """An object of a file: its keys and values, and where it is, ``file:line``."""

    place: str
    value: dict[str, Any]


def read_records(file: Path, tally: Tally | None = None) -> Iterator[Record]:
    """The objects of a file in their order; elements of lists are objects of their own.

    A file whose first line is whole JSON is JSON lines; one that begins with another bracket holds
    JSON documents over several lines; else it is a CSV file, whose first line names the columns.
    What cannot be read is left out and counted.

    Raises
    ------
    TraceError
        if the file is damaged, too large, or its first document is no JSON.
    """
    tally = Tally() if tally is None else tally
    numbered = lines(file, LONGEST_TEXT)
    first = next(numbered, None)
    if first is None:
        return
    number, line = first
    text = line.decode("utf-8-sig", "replace")
    if text.lstrip()[:1] not in ("{", "["):
        yield from _rows(file, number, text, numbered, tally)
        return
    try:
        value = _loaded(text)
    except ValueError:
        yield from _documents(file, number, text, numbered, tally)
        return
    yield from _objects(value, _place(file, number), tally)
    for number, line in numbered:
        place = _place(file, number)
        try:
            value = _loaded(line.decode("utf-8"))
        except ValueError:
            tally.skipped.add(_BROKEN, place)
            continue
        yield from _objects(value, place, tally)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("deeply nested brackets") from None


def _documents(
    file: Path, number: int, text: str, numbered: Iterable[tuple[int, bytes]], tally: Tally
) -> Iterator[Record]:
    """JSON documents, one after the other."""
    parts, starts, length = [text], [(0, number)], len(text)
    for number, line in numbered:
        starts.append((length, number))
        parts.append(line.decode("utf-8", "replace"))
        length += len(parts[-1])
        if length > LONGEST_TEXT:
            raise TraceError(f"{file}:{number}: a JSON document longer than {LONGEST_TEXT} bytes")
    text, at, line_at, found = "".join(parts), 0, 0, False
    while (at := _skip_blank(text, at)) < len(text):
        while line_at + 1 < len(starts) and starts[line_at + 1][0] <= at:
            line_at += 1
        place = _place(file, starts[line_at][1])
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if not found:
                why = getattr(error, "msg", "deeply nested brackets or a number too long")
                raise TraceError(f"{place}: JSON: {why}") from None
            tally.skipped.add("text that is no JSON", place)
            return
        found = True
        yield from _objects(value, place, tally)


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _objects(value: Any, place: str, tally: Tally) -> Iterator[Record]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            yield Record(place, one)
        else:
            tally.skipped.add("JSON that is no object", place)


def _rows(
    file: Path, number: int, header: str, numbered: Iterable[tuple[int, bytes]], tally: Tally
) -> Iterator[Record]:
    """The rows of a CSV file."""
    places = [number]

    def texts() -> Iterator[str]:
        yield header
        for places[0], line in numbered:
            yield line.decode("utf-8", "replace").replace("\0", "")

    try:
        for row in csv.DictReader(texts(), skipinitialspace=True):
            values = {key.strip(): text for key, text in row.items() if key is not None}
            yield Record(_place(file, places[0]), values)
    except csv.Error as error:
        tally.skipped.add(f"CSV: {error}", _place(file, places[0]))


def _place(file: Path, number: int) -> str:
    return f"{printable(file)}:{number}"


# --- What values of records mean ------------------------------------------------------------------


def whole(value: Any) -> int | None:
    """A whole number of 0 or more, which may be written as text or with a decimal point."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = int(value)
    except (ValueError, OverflowError):  # "12.0", a number of 5,000 digits, infinity
        found = -1
    if found >= 0 and (isinstance(value, str) or found == value):
        return found
    real = number(value)
    return int(real) if real is not None and real >= 0 and real.is_integer() else None


def number(value: Any) -> float | None:
    """A finite number, which may be written as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def text(value: Any) -> str | None:
    """A text that is not empty; a number counts as the text that writes it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return str(value) or None


def time_ns(value: Any) -> int | None:
    """A time in nanoseconds since 1970; None if there is none.

    A number is a Unix time in s, ms, us or ns, whichever puts it between 1973 and 5138; a text is
    such a number or an ISO 8601 date, in UTC unless it says otherwise.
    """
    found = number(value)
    if found is not None:
        scale = next((scale for least, scale in NANOSECONDS if found > least), 0)
        exact = whole(value)  # a float may not have the digits
        return (round(found * scale) if exact is None else exact * scale) or None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def unix_nano(value: Any) -> int | None:
    """A time in nanoseconds, as OTLP writes it; 0 stands for none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        found = int(value)
    except ValueError:
        return None
    return found if 0 < found < 2**64 else None


def inner(value: Any, *keys: str) -> Any:
    """What is under these keys, one in the other, or None."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value

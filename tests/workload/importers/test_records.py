"""Files as records: JSON lines, documents over several lines, CSV, and what is broken in them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmsched_gym.workload.importers.records import number, read_records, time_ns, unix_nano, whole
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.lines import TraceError


def read(file: Path, text: str | bytes) -> tuple[list[tuple[int, Any]], Tally]:
    """Line numbers and values."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    tally = Tally()
    records = list(read_records(file, tally))
    assert all(record.place.startswith(f"{file}:") for record in records)
    return [(int(record.place.rpartition(":")[2]), record.value) for record in records], tally


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}\n\n{"a": 2}', [(1, {"a": 1}), (3, {"a": 2})]),
        ('\ufeff{"a": 1}\r\n', [(1, {"a": 1})]),
        ('[{"a": 1}, {"a": 2}]', [(1, {"a": 1}), (1, {"a": 2})]),
        ('[\n{"a": 1},\n{"a": 2}\n]\n', [(1, {"a": 1}), (1, {"a": 2})]),
        ('{\n"a": 1\n}\n{\n"a": 2\n}', [(1, {"a": 1}), (4, {"a": 2})]),
        ('{\n"a": 1\n}, {"a": 2}', [(1, {"a": 1}), (3, {"a": 2})]),
        ("a, b\n1, x\n\n2, y\n", [(2, {"a": "1", "b": "x"}), (4, {"a": "2", "b": "y"})]),
        ('\ufeffa,b\n"1\n2",x\n', [(3, {"a": "1\n2", "b": "x"})]),
        ("", []),
        ("\n \n", []),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_files_hold(
    tmp_path: Path, text: str, expected: list[tuple[int, Any]], packed: bool
) -> None:
    data = text.encode()
    records, tally = read(tmp_path / "file", gzip.compress(data) if packed else data)
    assert records == expected
    assert not tally.skipped


@pytest.mark.parametrize(
    ("text", "left", "why", "line"),
    [
        ('{"a": 1}\n{"a": 2\n{"a": 3}', 2, "lines that are no JSON", 2),
        ('{"a": 1}\n7\n', 1, "JSON that is no object", 2),
        ('[{"a": 1}, 7]', 1, "JSON that is no object", 1),
        (b'{"a": 1}\n{"a": "\xff"}\n', 1, "lines that are no JSON", 2),
        ('{\n"a": 1\n}\n{\n"a": ', 1, "text that is no JSON", 4),
        ('{"a": 1}\n' + "[" * 100_000, 1, "lines that are no JSON", 2),
    ],
)
def test_what_is_broken_is_counted(
    tmp_path: Path, text: str | bytes, left: int, why: str, line: int
) -> None:
    records, tally = read(tmp_path / "file", text)
    assert len(records) == left
    assert tally.skipped.counts == {why: 1}
    assert tally.skipped.places == {why: f"{tmp_path / 'file'}:{line}"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{\n"a": oops\n}', ":1: JSON: Expecting value"),
        ("{" + '"a": [' * 100_000, ":1: JSON: "),
        (b"\x1f\x8bnothing", "gzip: damaged file"),
    ],
)
def test_a_file_that_begins_broken_is_one_line(tmp_path: Path, text: str | bytes, why: str) -> None:
    with pytest.raises(TraceError, match=why) as error:
        read(tmp_path / "file", text)
    assert "\n" not in str(error.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.text(alphabet='{}[]",:a1\n ', max_size=60))
def test_any_bytes_are_records_or_one_line(tmp_path: Path, data: str | bytes) -> None:
    message = ""
    try:
        read(tmp_path / "file", data)
    except TraceError as error:
        message = str(error)
    assert "\n" not in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=3), JSON, min_size=1)  # {} fits on a line when indented


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(OBJECTS, min_size=1, max_size=4))
def test_lines_documents_and_lists_hold_the_same(tmp_path: Path, values: list[Any]) -> None:
    texts = (
        "\n".join(map(json.dumps, values)),
        "\n".join(json.dumps(value, indent=1) for value in values),
        json.dumps(values),
        json.dumps(values, indent=1),
    )
    for text in texts:
        records, _ = read(tmp_path / "file", text)
        assert [value for _, value in records] == values


NANO = 1_700_000_000_123_456_789
NO_TIMES: tuple[Any, ...] = (None, "", "soon", 0, -1, True, [], {}, float("nan"), "1e999")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (NANO, NANO),
        (str(NANO), NANO),
        (1_700_000_000_123, 1_700_000_000_123_000_000),
        (1_700_000_000_123_456, 1_700_000_000_123_456_000),
        (1_700_000_000, 1_700_000_000_000_000_000),
        (1_700_000_000.5, 1_700_000_000_500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        ("2023-11-14 22:13:20.250000", 1_700_000_000_250_000_000),
        ("2023-11-14T23:13:20.250+01:00", 1_700_000_000_250_000_000),
        ("2023-11-16 18:17:03.9799600", 1_700_158_623_979_960_000),
        *((bad, None) for bad in NO_TIMES),
    ],
)
def test_times(value: Any, expected: int | None) -> None:
    assert time_ns(value) == expected


@given(value=st.none() | st.integers() | st.floats() | st.text() | st.from_regex(r"[0-9.e+-]{0,9}"))
def test_any_value_is_a_number_or_none(value: Any) -> None:
    for count in (whole(value), unix_nano(value), time_ns(value)):
        assert count is None or isinstance(count, int)
    found = number(value)
    assert found is None or abs(found) < float("inf")
    if isinstance(value, int):
        assert whole(value) == (value if value >= 0 else None)
        assert whole(str(value)) == whole(value)

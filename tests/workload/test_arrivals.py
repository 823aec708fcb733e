"""Arrival processes: rate, rhythm, and the CSV files that they are read from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmsched_gym.workload.arrivals import (
    Arrivals,
    Burst,
    InterruptedPoisson,
    Poisson,
    Recorded,
)
from llmsched_gym.workload.fitting import arrivals as fitting
from support.sampled import sampled

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
PROCESSES: list[Arrivals] = [
    Poisson(),
    Burst(),
    Recorded([0.0, 1.0, 1.0, 5.0]),
    InterruptedPoisson(),
]
JOBS_PER_BURST, QUIET = st.floats(1.01, 1e5), st.floats(1e-3, 0.999)


def saved(folder: Path, text: str | bytes) -> Path:
    file = folder / "arrivals.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


@given(st.sampled_from(PROCESSES), st.integers(0, 2**32), st.integers(1, 50), st.floats(1e-3, 1e3))
def test_arrivals_are_ascending_times(
    process: Arrivals, seed: int, count: int, rate: float
) -> None:
    times = process.draw(np.random.default_rng(seed), count, rate)
    assert times.shape == (count,)
    assert times.dtype == np.float64
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    again = process.draw(np.random.default_rng(seed), count, rate)
    np.testing.assert_array_equal(times, again)
    twice_as_fast = process.draw(np.random.default_rng(seed), count, 2 * rate)
    np.testing.assert_allclose(twice_as_fast, times / 2, rtol=1e-12)


def test_poisson_has_exponential_gaps_of_the_rate() -> None:
    gaps = np.diff(Poisson().draw(np.random.default_rng(0), 100_000, 4.0), prepend=0.0)
    assert gaps.mean() == pytest.approx(0.25, rel=0.02)
    assert gaps.std() == pytest.approx(0.25, rel=0.02)
    assert (gaps > 0.25).mean() == pytest.approx(np.exp(-1), rel=0.02)


def test_interrupted_poisson_has_gaps_and_pauses_of_the_rate() -> None:
    process = InterruptedPoisson(20, 0.6)
    gaps = np.diff(process.draw(np.random.default_rng(0), 400_000, 4.0), prepend=0.0)
    assert gaps.mean() == pytest.approx(0.25, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(np.sqrt(1 + 2 * 0.55**2 / 0.0475), rel=0.02)
    for x in (0.05, 0.25, 1.0, 5.0):  # in a burst 0.25 * 0.4 / 0.95 s, a pause 0.25 * 0.6 * 20 s
        above = 0.95 * np.exp(-x / (0.1 / 0.95)) + 0.05 * np.exp(-x / 3)
        assert (gaps > x).mean() == pytest.approx(above, rel=0.02)
    for lag in (1, 2, 10):
        assert abs(np.corrcoef(gaps[:-lag], gaps[lag:])[0, 1]) < 0.01


@sampled(("jobs_per_burst", "quiet"), [(20, 0.6), (5, 0.9), (143, 0.826)])
def test_interrupted_poisson_has_the_dispersion_that_it_says(
    jobs_per_burst: float, quiet: float
) -> None:
    process = InterruptedPoisson(jobs_per_burst, quiet)
    times = process.draw(np.random.default_rng(1), 2_000_000, 2.0)
    for jobs in (0.5, 5.0, 50.0, 300.0):
        drawn = fitting.dispersion(times, jobs / 2.0)
        assert drawn == pytest.approx(process.dispersion(jobs), rel=0.05)


def test_the_expected_last_arrival_is_the_count_over_the_rate() -> None:
    rng = np.random.default_rng(2)
    last = [InterruptedPoisson(10, 0.7).draw(rng, 100, 5.0)[-1] for _ in range(4000)]
    assert np.mean(last) == pytest.approx(20.0, abs=4 * np.std(last) / np.sqrt(len(last)))


@given(JOBS_PER_BURST, QUIET)
def test_the_process_is_kuczuras(jobs_per_burst: float, quiet: float) -> None:
    """Poisson of rate ``on`` while it is on; on and off end at rates; the mean rate is 1."""
    p = 1 / jobs_per_burst
    short, long = (1 - p) / (1 - quiet), p / quiet  # the rates of the two phases of a gap
    on = (1 - p) * short + p * long
    end_off = short * long / on
    end_on = short + long - on - end_off
    both = end_on + end_off
    assert on * end_off / both == pytest.approx(1.0)
    for x in (0.1, 1.0, 30.0):
        textbook = 1 + 2 * on * end_on / both**2 * (1 - (1 - np.exp(-both * x)) / (both * x))
        dispersion = InterruptedPoisson(jobs_per_burst, quiet).dispersion(x)
        assert dispersion == pytest.approx(textbook, rel=1e-6)


@given(JOBS_PER_BURST, st.floats(0.01, 1e4))
def test_as_many_pauses_as_their_share_of_time_make_a_poisson_process(
    jobs_per_burst: float, jobs: float
) -> None:
    process = InterruptedPoisson(jobs_per_burst, 1 / jobs_per_burst)
    assert process.dispersion(jobs) == pytest.approx(1.0)
    times = process.draw(np.random.default_rng(3), 1000, 1.0)
    assert np.diff(times).std() == pytest.approx(np.diff(times).mean(), rel=0.15)


@given(JOBS_PER_BURST, QUIET)
def test_dispersion_grows_from_that_of_poisson_to_the_variation_of_the_gaps(
    jobs_per_burst: float, quiet: float
) -> None:
    grown = InterruptedPoisson(jobs_per_burst, quiet).dispersion(np.geomspace(1e-3, 1e12, 40))
    p = 1 / jobs_per_burst
    assert (np.diff(grown) >= -1e-9 * grown[1:]).all()
    assert grown[0] >= 1 - 1e-9
    assert grown[-1] == pytest.approx(1 + 2 * (p - quiet) ** 2 / (p * (1 - p)), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs_per_burst": 1}, "jobs_per_burst: 1 is not above 1"),
        ({"jobs_per_burst": float("nan")}, "jobs_per_burst: nan is not"),
        ({"jobs_per_burst": 1e7}, "jobs_per_burst: 10000000.0 is not"),
        ({"jobs_per_burst": "many"}, "jobs_per_burst: 'many' is not"),
        ({"quiet": 0}, "quiet: 0 is not a share between 0 and 1"),
        ({"quiet": 1.0}, "quiet: 1.0 is not"),
        ({"quiet": True}, "quiet: True is not"),
    ],
)
def test_bursts_and_pauses_out_of_range_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        InterruptedPoisson(**options)


def test_the_fit_finds_a_known_process() -> None:
    times = InterruptedPoisson(40, 0.7).draw(np.random.default_rng(5), 200_000, 2.5)
    found = fitting.fit(times)
    assert found.jobs_per_burst == pytest.approx(40, rel=0.1)
    assert found.quiet == pytest.approx(0.7, rel=0.03)


def test_the_defaults_are_those_of_the_record(shared: Path) -> None:
    found = fitting.fit(fitting.read(shared))
    assert InterruptedPoisson().jobs_per_burst == round(found.jobs_per_burst)
    assert InterruptedPoisson().quiet == round(found.quiet, 3)


def test_the_record_is_one_that_the_process_might_have_drawn(shared: Path) -> None:
    record = fitting.read(shared)
    rate = (len(record) - 1) / record[-1]
    rng = np.random.default_rng(0)
    drawn = [InterruptedPoisson().draw(rng, len(record), rate) for _ in range(100)]
    for span in (1.0, 3.0, 30.0, 60.0, 120.0):
        low, high = np.quantile([fitting.dispersion(times, span) for times in drawn], (0.01, 0.99))
        assert 0.95 * low <= fitting.dispersion(record, span) <= 1.05 * high
        assert low > 8  # of a Poisson process: 1


def test_burst_is_at_time_zero() -> None:
    np.testing.assert_array_equal(Burst().draw(np.random.default_rng(0), 3, 1.0), [0, 0, 0])


class From:
    """A generator that starts the record where the test says."""

    def __init__(self, first: int) -> None:
        self.first = first

    def integers(self, high: int) -> int:
        assert self.first < high
        return self.first


@pytest.mark.parametrize(
    ("first", "count", "expected"),
    [
        (0, 1, [0]),
        (0, 2, [0, 1]),
        (0, 4, [0, 0.6, 0.6, 3]),  # recorded 0 1 1 5, stretched to 3 gaps of 1 s
        (1, 3, [0, 0, 2]),
        (0, 5, [0, 0.6, 0.6, 3, 4]),  # after the end, one mean gap (5 / 3), and from the start
        (2, 3, [0, 2 * 4 / (4 + 5 / 3), 2]),
        (1, 2, [0, 0]),  # equal timestamps cannot be stretched
    ],
)
def test_record_by_hand(first: int, count: int, expected: list[float]) -> None:
    times = Recorded([100.0, 101.0, 101.0, 105.0]).draw(From(first), count, 1.0)  # type: ignore[arg-type]
    np.testing.assert_allclose(times, expected, rtol=1e-12)


def test_record_starts_anywhere() -> None:
    recorded = Recorded(np.cumsum(np.arange(1.0, 9.0)))
    rng = np.random.default_rng(0)
    ratios = {round(recorded.draw(rng, 3, 1.0)[1], 6) for _ in range(200)}
    assert len(ratios) == 8


@given(st.integers(0, 2**32), st.integers(2, 60), st.floats(0.01, 100.0))
def test_record_has_the_rate_and_keeps_the_rhythm(seed: int, count: int, rate: float) -> None:
    record = np.array([0.0, 0.1, 0.4, 2.0, 2.5, 7.0, 7.01, 11.0])
    times = Recorded(record).draw(np.random.default_rng(seed), count, rate)
    assert times[0] == 0
    assert (count - 1) / times[-1] == pytest.approx(rate)
    gaps = np.append(np.diff(record), np.diff(record).mean())
    ratios = [
        np.diff(times) / np.roll(gaps, -first)[np.arange(count - 1) % len(gaps)]
        for first in range(len(gaps))
    ]
    assert any(np.allclose(ratio, ratio[0]) for ratio in ratios)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e-320, 1e300])
@pytest.mark.parametrize("process", [Poisson(), Recorded([0.0, 1.0]), InterruptedPoisson()])
def test_rate_is_positive_and_finite(process: Arrivals, rate: float) -> None:
    with pytest.raises(ValueError, match=r"rate: .* is not a positive number"):
        process.draw(np.random.default_rng(0), 3, rate)


@pytest.mark.parametrize(
    ("timestamps", "message"),
    [
        ([], "at least 2"),
        ([1.0], "at least 2"),
        ([[1.0, 2.0]], "at least 2"),
        ([1.0, 1.0, 1.0], "all are equal"),
        ([1.0, 3.0, 2.0], "number 3 is out of order"),
        ([float("nan"), 1.0], "one is not finite"),
        ([1.0, float("inf")], "one is not finite"),
        ([-1e308, 1e308], "one is beyond 1e\\+20 s"),
        ([0.0, 5e-324], "all are equal"),
    ],
)
def test_bad_timestamps_are_refused(timestamps: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=f"timestamps: .*{message}"):
        Recorded(timestamps)


@pytest.mark.parametrize(
    "text",
    [
        "0\n1\n5\n",
        "0\n1\n5",
        "\ufefftime,tokens\n0,7\n1,7\n\n5,7\n",
        "when\r\n1700000000\r\n1700000001.0\r\n1700000005\r\n",
        "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03.9799600,4808\n"
        "2023-11-16 18:17:04.9799600,3180\n2023-11-16 18:17:08.9799600,110\n",
        "TIMESTAMP\n2024-05-10 00:00:00.009930+00:00\n2024-05-10 02:00:01.009930+02:00\n"
        "2024-05-10T00:00:05.00993Z\n",
        " 0 \n 1 \n 5 \n",
    ],
)
def test_first_column_with_or_without_a_header(tmp_path: Path, text: str) -> None:
    recorded = Recorded.from_csv(saved(tmp_path, text))
    times = recorded.draw(From(0), 3, 0.4)  # type: ignore[arg-type]
    np.testing.assert_allclose(times, [0, 1, 5], rtol=1e-6)


def test_a_named_column(tmp_path: Path) -> None:
    file = saved(tmp_path, 'id,"arrival, s"\n9,0\n8,1\n7,5\n')
    times = Recorded.from_csv(file, "arrival, s").draw(From(0), 3, 0.4)  # type: ignore[arg-type]
    np.testing.assert_allclose(times, [0, 1, 5], rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", None, "1: timestamps: a list of at least 2"),
        ("time\n", None, "1: timestamps: a list of at least 2"),
        ("time\n3\n", None, "2: timestamps: a list of at least 2"),
        ("time\n3\n3\n3\n", None, "4: timestamps: all are equal"),
        ("time\n3\nsoon\n", None, "3: 'soon' is not a timestamp"),
        ("time\n3\n\n,5\n", None, "4: '' is not a timestamp"),
        ("time\n3\nnan\n", None, "3: 'nan' is not finite"),
        ("nan\n3\n4\n", None, "1: 'nan' is not finite"),
        ("3\ninf\n", None, "2: 'inf' is not finite"),
        ("-1e308\n1e308\n", None, "1: '-1e308' is beyond 1e+20 s"),
        ("0\n1e-300\n", None, "2: timestamps: all are equal"),
        ("3\n5\n4\n", None, "3: '4' is earlier than the row before it"),
        ("2023-01-02\n2023-01-01\n", None, "2: '2023-01-01' is earlier"),
        ("2023-01-02\n2023-01-32\n", None, "2: '2023-01-32' is not a timestamp"),
        ("a,b\n1,2\n3,4\n", "c", "1: no column 'c', choose from a, b"),
        ("a,b\n1,2\n3\n", "b", "3: no cell in column 2"),
        (b"time\n1\n\xff\n", None, "3: not UTF-8"),
        ('time\n1\n"2\n', None, "3: unexpected end of data"),
        ("time\r1\r2\r", None, "1: "),
    ],
)
def test_bad_files_are_named_with_the_line(
    tmp_path: Path, text: str | bytes, column: str | None, message: str
) -> None:
    file = saved(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{file}:{message}")) as error:
        Recorded.from_csv(file, column)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: no such file"):
        Recorded.from_csv(tmp_path / "nowhere.csv")


def test_measured_arrivals_stay_bursty(shared: Path) -> None:
    recorded = Recorded.from_csv(shared / "arrivals" / "azure23_code.csv")
    gaps = np.diff(recorded.draw(np.random.default_rng(0), 8000, 2.0))
    assert gaps.mean() == pytest.approx(0.5)
    assert gaps.std() / gaps.mean() > 10  # of a Poisson process: 1


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (4, [0, 0.6, 0.6, 3]), (2, [0, 1])])
def test_in_order_a_record_starts_at_its_first_timestamp(count: int, expected: list[float]) -> None:
    times = Recorded([100.0, 101.0, 101.0, 105.0]).in_order(count, 1.0)
    np.testing.assert_allclose(times, expected, rtol=1e-12)


def test_timestamps_by_number_go_on_after_the_last() -> None:
    recorded = Recorded([100.0, 101.0, 101.0, 105.0])
    later = 105 + 5 / 3
    np.testing.assert_allclose(recorded.at([0, 3, 4, 5]), [100, 105, later, later + 1])


def test_timestamps_that_are_too_close_to_be_stretched() -> None:
    recorded = Recorded([0.0, 1e-200, 1.0])
    for seed in range(5):
        assert np.isfinite(recorded.draw(np.random.default_rng(seed), 2, 1e-12)).all()


def test_only_bursts_have_no_rate() -> None:
    processes: list[Any] = [*PROCESSES]
    assert [process.has_rate for process in processes] == [True, False, True, True]


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path, what in (
        (pipe, "a pipe"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(ValueError, match=f"{path}: {what}, not a CSV file"):
            Recorded.from_csv(path)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path, "0\n1\n")
    assert len(Recorded.from_csv("~/arrivals.csv")) == 2


cells = st.sampled_from(
    ["t", "0", "1", "1e308", "-inf", "nan", "2023-11-16 18:17:03", "", '"', "9" * 400]
)
rows = st.lists(
    st.lists(cells | st.text(max_size=6) | st.floats().map(str), max_size=3), max_size=8
)
tables = rows.map(
    lambda lines: "\n".join(",".join(row) for row in lines).encode("utf-8", "replace")
)
ascending = st.lists(st.floats(-1e21, 1e21), min_size=2, max_size=9).map(
    lambda times: "\n".join(map(str, sorted(times))).encode()
)


def check_that_a_csv_is_refused_or_can_be_drawn_from(folder: Path, content: bytes) -> None:
    file = saved(folder, content)
    for column in (None, "t"):
        try:
            recorded = Recorded.from_csv(file, column)
        except ValueError as error:
            assert str(error).startswith(f"{file}:")  # noqa: PT017
            continue
        for count, rate in ((1, 1.0), (7, 1e-6), (30, 1e6)):
            for times in (
                recorded.draw(np.random.default_rng(0), count, rate),
                recorded.in_order(count, rate),
            ):
                assert np.isfinite(times).all()
                assert times[0] == 0
                assert (np.diff(times) >= 0).all()


@same_folder
@given(st.binary(max_size=60) | tables | ascending)
def test_any_csv_is_refused_or_can_be_drawn_from(tmp_path: Path, content: bytes) -> None:
    check_that_a_csv_is_refused_or_can_be_drawn_from(tmp_path, content)


@pytest.mark.slow
@settings(same_folder, max_examples=2500)
@given(st.binary(max_size=60) | tables | ascending)
def test_any_csv_is_refused_or_can_be_drawn_from_often(tmp_path: Path, content: bytes) -> None:
    check_that_a_csv_is_refused_or_can_be_drawn_from(tmp_path, content)

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmsched_gym.cluster.calibration import Measurements
from llmsched_gym.cluster.latency import ClusterError, LatencyProfile
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.testbed.calibrate import UNCUT_BUDGET, Calibration, calibrate, main
from llmsched_gym.testbed.client import Rejected, Unavailable
from llmsched_gym.testbed.fake import fake_server
from llmsched_gym.testbed.faults import Fault
from support.quiet import agree

EXCLUSIVE = LatencyProfile("x", 12.0, 2.0, 0.02, 40.0, 20.0, 1.0, 0.0, 10**6, joins="late")
MIXED = replace(EXCLUSIVE, prefill="mixed", token_budget=2048)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Few iterations a measurement: a fake server takes the same time for each."""
    if "slow" not in request.keywords:
        monkeypatch.setattr("llmsched_gym.testbed.calibrate.STEPS", 10)
        monkeypatch.setattr("llmsched_gym.testbed.calibrate.LENGTHS", 6)


def check(found: LatencyProfile, true: LatencyProfile, longest: int) -> None:
    """Times within some per cent, and some of a millisecond for how long a sleep is late."""
    assert (found.prefill, found.token_budget) == (true.prefill, true.token_budget)
    assert found.joins == "late"
    batch = np.array([1, 2, 2, 2])
    kv = batch * np.array([16, 16, longest // 2, longest])
    decode = found.decode_ticks(batch, kv) / true.decode_ticks(batch, kv)
    assert decode == pytest.approx(1, abs=0.06)
    tokens = np.array([10, longest // 4, longest // 2, longest])
    if true.token_budget is not None:
        tokens = tokens[tokens < true.token_budget]
    prefill = found.prefill_ticks(tokens) / true.prefill_ticks(tokens)
    assert prefill == pytest.approx(1, abs=0.25)
    assert float(prefill.mean()) == pytest.approx(1, abs=0.1)


def calibrated(true: LatencyProfile, slots: int, longest: int) -> Calibration:
    """What is found of a fake server; again if the machine had no time for it."""
    found: list[Calibration] = []

    def measure() -> None:
        with fake_server(true, slots) as url:
            found.append(calibrate(url, slots=slots, longest=longest, repeats=1, name="mine"))
        assert found[-1].profile.source["data"] == f"measured on {url}"
        check(found[-1].profile, true, longest)

    agree(measure)
    return found[-1]


@pytest.mark.slow
@pytest.mark.parametrize("true", [EXCLUSIVE, replace(MIXED, token_budget=32)])
def test_an_engine_is_found_by_its_server(true: LatencyProfile) -> None:
    found = calibrated(true, 2, 64)
    assert found.profile.name == "mine"
    assert found.profile.error["decode_held_out_mape_pct"] < 10
    assert len(found.measured.batch) == 2 * 3  # batches and contexts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "slots"),
    [(None, 2), (None, 5), (32, 5), (50, 2), (100, 5), (128, 2), (2048, 5)],
)
def test_traits_and_times_of_many_engines(budget: int | None, slots: int) -> None:
    true = EXCLUSIVE if budget is None else replace(MIXED, token_budget=budget)
    calibrated(true, slots, 256)


@pytest.mark.slow
def test_a_server_with_fewer_slots() -> None:
    with (
        fake_server(MIXED, 1) as url,
        pytest.raises(ValueError, match=f"^slots: .*: does {url} run 2 requests at a time"),
    ):
        calibrate(url, slots=2, longest=64, repeats=1)
    with (
        fake_server(MIXED, 2) as url,
        pytest.raises(ValueError, match=f"^slots: .*: does {url} run 4 requests at a time"),
    ):
        calibrate(url, slots=4, longest=64, repeats=1)


def test_what_goes_wrong_is_told_in_one_line() -> None:
    with pytest.raises(ClusterError, match="slots: 1 is not a whole number of at least 2"):
        calibrate("http://127.0.0.1:9", slots=1)
    with pytest.raises(ClusterError, match="longest: 8 is not a whole number of at least 64"):
        calibrate("http://127.0.0.1:9", slots=2, longest=8)
    with pytest.raises(Unavailable, match="^http://127.0.0.1:9: "):
        calibrate("http://127.0.0.1:9", slots=2)
    with pytest.raises(Rejected, match="^url: "):
        calibrate("ftp://nothing", slots=2)
    cut = Fault("cut", first=5, count=1, after=1)
    with fake_server(MIXED, 2, faults=[cut]) as url, pytest.raises(Unavailable, match=url):
        calibrate(url, slots=2, longest=64, repeats=1)


def test_drift_is_how_much_slower_a_later_profile_is() -> None:
    rows = Measurements(*(np.array([2.0, 4.0]) for _ in Measurements.__annotations__))
    slower = replace(MIXED, a=13.2, c=2.2, d=0.022, p0=42.0, e=21.0, f=1.05)
    drift = Calibration(MIXED, rows).drift(Calibration(slower, rows))
    assert drift == pytest.approx({"decode": 0.1, "prefill": 0.05})


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: (main(arguments), *capsys.readouterr())


@pytest.mark.slow
def test_the_command(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    with fake_server(replace(MIXED, token_budget=500), 2) as url:
        asked = ["--url", url, "--slots", "2", "--longest", "64", "--quick", "--name", "mine"]
        asked += ["--kv-capacity-tokens", "5000", "--figure", "mine.png"]
        code, out, err = run(*asked, "-o", "out.yaml")
    assert (code, err) == (0, "")
    assert re.search("python evaluate.py cluster=out.yaml", out)
    cluster = load_cluster(tmp_path / "out.yaml")
    assert (cluster.name, cluster.engines, cluster.max_batch) == ("mine", 1, 2)
    assert cluster.latency.kv_capacity_tokens == 5000
    assert cluster.latency.token_budget == UNCUT_BUDGET  # no prompt was long enough to be cut
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://127.0.0.1:9", "--slots", "2", "-o", "a.txt"], "output: a.txt does not"),
        (["--url", "http://127.0.0.1:9", "--slots", "2", "-o", "a.yaml"], "http://127.0.0.1:9: "),
        (["--url", "nothing", "--slots", "2", "-o", "a.yaml"], "url: 'nothing' is not like http:"),
        (["--url", "http://127.0.0.1:9", "--slots", "1", "-o", "a.yaml"], "slots: 1 is not a"),
    ],
)
def test_bad_commands_write_nothing(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"calibrate: {message}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

"""Logs of episodes: written, read and replayed to the last bit, and refused where they are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError
from llmsched_gym.testbed.environment import Servers
from llmsched_gym.testbed.events import ASK, COMPLETE, DOWN, START, UP
from llmsched_gym.testbed.log import EventLog
from llmsched_gym.workload.arrivals import Poisson
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import Workload
from support.comparing import check_same
from support.live import (
    EXCLUSIVE,
    FAST,
    check_episode,
    cluster,
    near,
    on,
    play,
    replayed,
    workload,
)
from support.strategies import banks
from support.virtual import virtually

ENGINE = LatencyProfile("engine", 10.0, 1.0, 0.1, 12.0, 8.0, 0.3, 0.001, 300)


@given(
    bank=banks(max_size=4, max_stages=5, max_tokens=30),
    engines=st.integers(1, 3),
    slots=st.integers(1, 4),
    fail_every=st.integers(0, 5).filter(lambda number: number != 1),
    rate=st.sampled_from([0.3, 3.0, 100.0]),
    limit=st.sampled_from([None, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_any_episode_can_be_replayed(
    bank: JobBank,
    engines: int,
    slots: int,
    fail_every: int,
    rate: float,
    limit: float | None,
    seed: int,
) -> None:
    arrives = Workload("any", bank, bank, Poisson())
    options: dict[str, Any] = {"workload": arrives, "num_jobs": 5, "belief": "none"}
    options |= {"cluster": Cluster("any", ENGINE, engines, slots, 2), "arrival_rate": rate}
    with virtually(ENGINE, engines, slots, fail_every) as driver:
        env = LLMSchedEnv(driver=driver, time_limit=limit, **options)
        seen = play(env, "random", seed)
        log = driver.log
        if seen[-1][2]:
            check_episode(env, log)
            assert sum(row.kind == ASK for row in log.rows) == len(seen) - 1
    check_same(replayed(env, log, "random", seed, time_limit=limit), seen)


def test_failures_are_in_it(tmp_path: Path) -> None:
    with virtually(EXCLUSIVE, 2, 3, fail_every=4) as driver:
        options: dict[str, Any] = {"belief": "prior", "arrival_rate": 8.0, "driver": driver}
        env = LLMSchedEnv(workload(), cluster(EXCLUSIVE, 2, 3), 12, **options)
        seen = play(env, "sjf", 5)
        check_episode(env, driver.log)
        driver.log.write(tmp_path / "log.jsonl")
    log = EventLog.read(tmp_path / "log.jsonl")
    assert log == driver.log
    kinds = [row.kind for row in log.rows]
    assert kinds.count(DOWN) == kinds.count(UP) > 0
    failed = [request for request in log.requests if request.failed]
    assert failed
    for request in log.requests:
        stamps = (request.sent_s, *request.token_s, request.end_s)
        assert (np.diff(stamps) >= 0).all()
        least = 0 if request.failed else request.output_tokens
        assert least <= len(request.token_s) <= request.output_tokens
    check_same(replayed(env, log, "sjf", 5), seen)


def test_an_episode_on_a_server_is_replayed_to_the_last_bit(tmp_path: Path) -> None:
    with near(FAST, 4) as server, on(Servers(server.url, 4), belief="bayes") as env:
        seen = play(env, "llmsched", 2)
        env.log.write(tmp_path / "log.jsonl")
    log = EventLog.read(tmp_path / "log.jsonl")
    check_same(replayed(env, log, "llmsched", 2), seen)
    held = [row.held[0] for row in log.rows if row.kind == ASK]
    assert max(held) > 0


@pytest.fixture(scope="module")
def episode() -> tuple[LLMSchedEnv, EventLog]:
    with virtually(FAST, 1, 1) as driver:
        options: dict[str, Any] = {"belief": "none", "arrival_rate": 30.0, "driver": driver}
        env = LLMSchedEnv(workload(), cluster(FAST, 1, 1), 4, **options)
        play(env, "fcfs", 4)
        return env, driver.log


def test_only_what_was_done_can_be_replayed(episode: tuple[LLMSchedEnv, EventLog]) -> None:
    env, log = episode
    with pytest.raises(InputError, match=r"^log: event \d+ of \d+: then, .*; now, task \d+ starts"):
        replayed(env, log, "random", 4)
    with pytest.raises(InputError, match=r"^log: it has 1 engines, 1 slots, 4 jobs"):
        replayed(env, log, "fcfs", 4, num_jobs=3)
    kinds = [row.kind for row in log.rows]
    for at, why in (
        (kinds.index(COMPLETE), "complete 0: it does not fit what was before"),
        (len(kinds) - 1, "it ends in the middle of the episode"),
        (kinds.index(START), "then, .* 1; now, task 0 starts"),
    ):
        rows = [row for number, row in enumerate(log.rows) if number != at]
        if at == kinds.index(COMPLETE):
            rows = [*log.rows[: at + 1], log.rows[at], *log.rows[at + 1 :]]
        other = EventLog(log.urls, log.slots, log.jobs, log.tasks, rows)
        with pytest.raises(InputError, match=why):
            replayed(env, other, "fcfs", 4)


@pytest.mark.parametrize(
    ("line", "text", "why"),
    [
        (1, "", "no JSON: "),
        (1, "[]", "a line is a JSON object"),
        (1, '{"kind": "ask"}', "format: None is not 'llmsched-gym testbed log 1'"),
        (3, "[" * 100_000, "nested too deeply"),
        (3, "\udcff", "no JSON: "),
        (2, '{"kind": "go"}', "kind: 'go' is not one of start, complete, arrive, down, up, ask, "),
        (2, '{"kind": "arrive", "tick": -1}', "tick: -1 is not a whole number from 0 to "),
        (2, '{"kind": "arrive", "tick": 0, "job": 9}', "job: 9 is not a whole number from 0 to 3"),
        (2, '{"kind": "down", "tick": 0, "engine": 1}', "engine: 1 is not a whole number from 0 "),
        (2, '{"kind": "ask", "tick": 0, "held": [1, 2]}', "held: 1 whole numbers are needed"),
        (9, '{"kind": "request", "task": 1}', "token_s: None is not a list"),
        (9, '{"kind": "request", "token_s": [NaN]}', "token_s: nan is not a time in seconds"),
    ],
)
def test_what_is_no_log_is_refused(
    line: int, text: str, why: str, episode: tuple[LLMSchedEnv, EventLog], tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    episode[1].write(path)
    lines = path.read_bytes().splitlines()
    lines[line - 1] = text.encode(errors="surrogateescape")
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(InputError) as error:
        EventLog.read(path)
    assert str(error.value).startswith(f"{path}:{line}: {why}")
    path.write_bytes(b"")
    with pytest.raises(InputError, match=":1: the file is empty"):
        EventLog.read(path)


def test_it_is_written_whole_or_not_at_all(
    episode: tuple[LLMSchedEnv, EventLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("old")

    def dumps(row: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", dumps)
    with pytest.raises(OSError):
        episode[1].write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

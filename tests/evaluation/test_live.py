"""Policies on servers: the order of episodes, what an interrupt leaves, and `compare` there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError, Interrupted
from llmsched_gym.evaluation import compare, episodes, live
from llmsched_gym.evaluation.comparison import CLAIRVOYANTS, Evaluation, Run
from llmsched_gym.evaluation.episodes import Episode
from llmsched_gym.evaluation.live import LiveEvaluation, Unfinished
from llmsched_gym.testbed import EventLog, Replay, Servers
from llmsched_gym.workload.mixes import make_workload
from support.comparing import check_same
from support.servers import PROFILE, SCALES, SLOTS, fake_servers

WORKLOAD = make_workload("task_automation", jobs_per_application=40, arrivals="burst").scaled(
    *SCALES.values()
)
RUNS = (Run("fcfs", "fcfs"), Run("sjf", "sjf"), CLAIRVOYANTS[0])
CLUSTER = Cluster("fake", PROFILE, 2, SLOTS)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with fake_servers(2) as urls:
        yield Servers(urls, SLOTS)


# --- The order, without servers -------------------------------------------------------------------


class Stub(LLMSchedEnv):
    """An environment that is simulated, and looks like one of servers."""

    servers = SimpleNamespace(urls=("http://a:1",), slots=SLOTS, clock=None)
    log = EventLog(("http://a:1",), SLOTS, 1, 1)
    closed = 0

    def task_table(self) -> dict[str, Any]:
        return {"retries": np.array([0, -1, 2])}

    def close(self) -> None:
        Stub.closed += 1


def evaluation(folder: Path | None = None, episodes: int = 4) -> LiveEvaluation:
    env, oracle = (
        Stub(WORKLOAD, CLUSTER, num_jobs=3, belief=belief) for belief in ("prior", "oracle")
    )
    return LiveEvaluation(RUNS, env, oracle, episodes, 0, 1, 1.3, folder)


def stopping(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> list[str]:
    """Play raises an error after so many episodes; which episodes are begun."""
    begun: list[str] = []

    def stopped(env: Any, policy: Any, label: str, seed: int, number: int) -> Episode:
        begun.append(f"{label} {number}")
        if len(begun) > after:
            raise error
        return episodes.play(env, policy, label, seed, number)

    monkeypatch.setattr(live, "play", stopped)
    return begun


def test_all_policies_play_an_episode_before_any_plays_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = stopping(monkeypatch, 99, Interrupted())
    told: list[str] = []
    result = evaluation().play(lambda: told.append("done"), told.append)
    assert begun == [
        *("fcfs 0", "sjf 0", "srtf_oracle 0", "sjf 1", "srtf_oracle 1", "fcfs 1"),
        *("srtf_oracle 2", "fcfs 2", "sjf 2", "fcfs 3", "sjf 3", "srtf_oracle 3"),
    ]
    assert told[:4] == ["episode 1 of 4, fcfs", "done", "episode 1 of 4, sjf", "done"]
    played = [(one.policy, one.number) for one in result.played]
    assert played == [(run.label, number) for run in RUNS for number in range(4)]
    assert result.notes[-2:] == (
        "Played in real time on http://a:1, 4 slots each.",
        "Requests that failed and were sent again: 24.",
    )


def test_episodes_are_those_of_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same jobs, seeds and policies, whatever the order and however many are kept."""
    one = evaluation()
    plain = Evaluation(one.runs, one.env, one.oracle, one.episodes, one.seed, 1, one.load)
    other = ("decision_us", "bound_s")  # there is no bound on servers
    columns = [name for name in one.play().episodes if name not in other]
    assert one.play().episodes[columns].equals(plain.play().episodes[columns])


@pytest.mark.parametrize("after", range(12))
def test_an_interrupted_evaluation_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: int
) -> None:
    whole = evaluation().play()
    with monkeypatch.context() as patched:
        stopping(patched, after, Interrupted())
        with pytest.raises(Unfinished) as stopped:
            evaluation(tmp_path).play()
    assert evaluation(tmp_path).kept() == after
    found = stopped.value.comparison
    assert (found is None) == (after < len(RUNS))
    if found is not None:
        rounds = after // len(RUNS)
        assert found.notes[-1] == f"Interrupted: {rounds} of 4 episodes are in here."
        assert [one.number for one in found.played] == [*range(rounds)] * len(RUNS)
        part = whole.jobs[whole.jobs["episode"] < rounds].reset_index(drop=True)
        assert found.jobs.equals(part)
    begun = stopping(monkeypatch, 99, Interrupted())
    again = evaluation(tmp_path).play()
    assert len(begun) == 12 - after
    assert again.jobs.equals(whole.jobs)
    assert again.notes == whole.notes


def test_an_error_ends_it_and_what_was_played_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stopping(monkeypatch, 5, InputError("http://a:1: Connection refused"))
    closed = Stub.closed
    with pytest.raises(InputError, match="Connection refused"):
        evaluation(tmp_path).play()
    assert evaluation(tmp_path).kept() == 5
    assert Stub.closed == closed + 6, "no connection stays open"


def test_time_that_was_left_out_is_told(tmp_path: Path) -> None:
    one = evaluation(tmp_path, episodes=1)
    clock = SimpleNamespace(stolen_share=lambda: 0.0321)
    one.env.servers = SimpleNamespace(**vars(Stub.servers) | {"clock": clock})  # type: ignore[attr-defined]
    note = "Time that servers waited for a CPU is left out: 3.2% of theirs."
    assert one.play().notes[-1] == note
    assert "left out" not in one.play().notes[-1], "all was kept"
    (tmp_path / "sjf_episode0.npz").unlink()
    assert one.play().notes[-1] == note.replace("theirs", "theirs, since the run went on")


# --- On servers -----------------------------------------------------------------------------------


def test_compare_on_servers(servers: Servers, tmp_path: Path) -> None:
    given: dict[str, Any] = {"workload": WORKLOAD, "num_jobs": 3, "episodes": 2, "belief": "prior"}
    result = compare(["fcfs", "sjf"], cluster=CLUSTER, servers=servers, **given)
    assert list(result.summary["policy"]) == ["fcfs", "sjf", "srtf_oracle"]
    assert set(result.tasks["episode"]) == {0, 1}
    llm = result.tasks[result.tasks["kind"] == "llm"]
    assert (llm["first_token_s"] >= llm["sent_s"]).all()
    assert (llm["end_s"] >= llm["first_token_s"]).all()
    assert llm["engine"].isin([0, 1]).all()
    result.write(tmp_path)
    logs = sorted(path.name for path in (tmp_path / "logs").glob("*.jsonl"))
    assert logs == [f"{run.label}_episode{n}.jsonl" for run in RUNS for n in range(2)]
    assert result.episodes["bound_s"].isna().all()
    simulated = compare(["fcfs", "sjf", "srtf"], cluster=CLUSTER, reference=False, **given)
    assert len(simulated.tasks) == 0
    for name in ("application", "arrival_s"):
        assert list(simulated.jobs[name]) == list(result.jobs[name])


def test_a_log_tells_what_happened_without_servers(servers: Servers) -> None:
    given: dict[str, Any] = {"workload": WORKLOAD, "num_jobs": 3}
    result = compare(
        ["sjf"], cluster=CLUSTER, servers=servers, episodes=2, reference=False, **given
    )
    for one in result.played:
        assert one.log is not None
        env = LLMSchedEnv(cluster=CLUSTER, driver=Replay(one.log), load=1.3, **given)
        again = episodes.play(env, RUNS[1].make(), "sjf", 0, one.number)
        check_same(again.jobs, {name: one.jobs[name] for name in again.jobs})
        assert (again.makespan_s, again.decisions) == (one.makespan_s, one.decisions)


def test_compare_within_an_event_loop_as_in_a_notebook(servers: Servers) -> None:
    async def cell() -> Any:
        return compare(
            ["fcfs"],
            workload=WORKLOAD,
            cluster=CLUSTER,
            num_jobs=2,
            episodes=1,
            belief="prior",
            reference=False,
            servers=servers,
        )

    assert list(asyncio.run(cell()).summary["policy"]) == ["fcfs"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"processes": 2}, "processes: 2, but on servers it can only be one"),
        ({"load": 0}, "load: 0 is not a positive number"),
        ({"workload": "nosuch"}, "workload: unknown 'nosuch'"),
        ({"cluster": "nosuch"}, "cluster: unknown name 'nosuch'"),
        ({"cluster": None, "slots": 1}, "slots: a server of one slot is not measured, choose a "),
        ({"slots": SLOTS + 1}, f"runs {SLOTS} requests at once, not {SLOTS + 1}"),
        (
            {"workload": WORKLOAD.scaled(prompt=500), "cluster": "constant"},
            "status 400: prompt and",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    servers: Servers, changed: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"workload": WORKLOAD, "cluster": CLUSTER, "num_jobs": 2} | changed
    asked = replace(servers, slots=given.pop("slots", SLOTS))
    with pytest.raises((ValueError, InputError)) as error:
        compare(["fcfs"], servers=asked, **given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)

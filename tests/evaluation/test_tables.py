"""What people read of a comparison: its tables, and who did best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from llmsched_gym import metrics
from llmsched_gym.agents.base import POLICIES
from llmsched_gym.cluster.alone import EmptyCluster
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.evaluation import Episode, compare
from llmsched_gym.evaluation.results import Summary, by_policy, episode_means, summarise
from llmsched_gym.evaluation.tables import application_tables, results_table
from llmsched_gym.evaluation.verdict import gap_is_sure, verdict
from llmsched_gym.metrics import slowdown

WIDTH = 80


def episodes(jct_s: Mapping[str, Sequence[Sequence[float]]], names: str = "ab") -> list[Episode]:
    """Of each policy, with the JCT of the jobs of each; they take half a second alone."""
    return [
        Episode(policy, number, _jobs(np.array(jct, np.float64), names), 1.0, 1, 1.0)
        for policy, played in jct_s.items()
        for number, jct in enumerate(played)
    ]


def _jobs(jct_s: np.ndarray, names: str) -> dict[str, np.ndarray]:
    applications = np.array([names[i % len(names)] for i in range(len(jct_s))])
    alone = np.full(len(jct_s), 0.5)
    return {"application": applications, "jct_s": jct_s, "alone_s": alone}


def near(scale: float, seed: int = 0, count: int = 6) -> list[list[float]]:
    """Episodes of ten jobs, alike but for a factor and a little luck of each episode."""
    luck = np.random.default_rng(7).lognormal(2, 0.2, (count, 10))
    own = np.random.default_rng(seed).lognormal(0, 0.01, (count, 1))
    return (scale * luck * own).tolist()


def shown(summaries: Sequence[Summary], gap: bool = True) -> str:
    console = Console(width=WIDTH, file=None, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(results_table(summaries, "title", gap))
        for table in application_tables(summaries, WIDTH):
            console.print(table)
    return captured.get()


# --- Who did best ---------------------------------------------------------------------------------


def test_the_verdict_names_the_best_and_its_equals() -> None:
    played = episodes(
        {"slow": near(2), "one": near(1, 1), "two": near(1, 2), "srtf_oracle": near(0.5)}
    )
    assert verdict(played) in (
        "Lowest mean: one (equal: two); lowest p99: one (equal: two).",
        "Lowest mean: two (equal: one); lowest p99: two (equal: one).",
        "Lowest mean: one (equal: two); lowest p99: two (equal: one).",
        "Lowest mean: two (equal: one); lowest p99: one (equal: two).",
    )


def test_the_mean_and_the_tail_may_be_of_different_policies() -> None:
    jobs = np.random.default_rng(0).uniform(1, 2, (6, 50))
    tail = jobs.copy()
    tail[:, -1] = 30.0
    told = verdict(episodes({"even": (jobs + 1).tolist(), "harsh": (tail - 0.5).tolist()}))
    assert told == "Lowest mean: harsh; lowest p99: even."


def test_one_episode_has_no_equals_but_those_alike() -> None:
    played = {"a": near(1, count=1), "b": near(1, count=1), "c": near(1.001, count=1)}
    assert verdict(episodes(played)) == "Lowest mean: a (equal: b); lowest p99: a (equal: b)."


def test_one_policy_needs_no_verdict() -> None:
    assert verdict(episodes({"fcfs": near(1), "srtf_oracle": near(0.5)})) == ""


def test_the_gap_is_shown_where_there_is_one() -> None:
    far = episodes({"mine": near(1), "sjf": near(1.2), "srtf_oracle": near(0.8)})
    close = episodes({"mine": near(1), "sjf": near(1, 3), "srtf_oracle": near(1, 4)})
    single = episodes({"sjf": near(1.2, count=1), "srtf_oracle": near(0.8, count=1)})
    sure = [gap_is_sure(played) for played in (far, close, single)]
    assert sure == [True, False, False]
    assert not gap_is_sure(episodes({"mine": near(1), "sjf": near(2)}))
    assert "gap" in shown(summarise(far, ["srtf_oracle"]), gap=True)
    assert "gap" not in shown(summarise(close, ["srtf_oracle"]), gap=False)


# --- Tables ---------------------------------------------------------------------------------------


def test_the_better_reference_is_the_clairvoyant_one() -> None:
    ends = {"mine": near(1), "sjf": near(1.2)}
    for alone, best in [("srtf_oracle", 0.8), ("srtf_own_oracle", 0.6)]:
        one = summarise(episodes(ends | {alone: near(best)}))
        both = {"srtf_oracle": near(0.8), "srtf_own_oracle": near(0.6)}
        own = by_policy(episodes(ends | both))
        means = (episode_means(own[name]) for name in ("mine", "sjf", alone))
        assert one[0].gap_closed == metrics.gap_closed(*means)
        assert one[2].gap_closed is None
    summaries = summarise(episodes(ends | both), list(both))
    gaps = {one.policy: one.gap_closed for one in summaries}
    assert gaps["mine"] == one[0].gap_closed
    assert gaps["srtf_own_oracle"] is gaps["sjf"] is None
    assert gaps["srtf_oracle"] is not None
    assert "SJF to srtf_own_oracle" in " ".join(shown(summaries).split())
    assert verdict(episodes(both)) == ""
    worse = {"sjf": near(1), "srtf_oracle": near(1.1)}
    assert not gap_is_sure(episodes(worse))
    assert gap_is_sure(episodes(worse | {"srtf_own_oracle": near(0.5)}))


# --- The lower bound ------------------------------------------------------------------------------


def test_means_are_shown_over_their_bound() -> None:
    played = [
        replace(one, bound_s=bound_s)
        for one in episodes({"mine": [[2.0, 4.0], [5.0, 7.0]], "sjf": [[3.0, 5.0], [6.0, 8.0]]})
        for bound_s in [(1.0, 4.0)[one.number]]
    ]
    summaries = summarise(played)
    assert [(one.bound_s, one.x_bound) for one in summaries] == [(2.5, 4.5 / 2.5), (2.5, 5.5 / 2.5)]
    text = shown(summaries)
    assert "bound" in text
    assert "1.80" in text
    assert "2.20" in text
    unknown = summarise([*played, *episodes({"fcfs": [[1.0, 2.0], [3.0, 4.0]]})])
    assert [one.x_bound for one in unknown] == [1.8, 2.2, None]
    assert "bound" not in shown(summarise(episodes({"mine": near(1)})))
    zero = summarise([replace(one, bound_s=0.0) for one in played])  # jobs that may take no time
    assert [one.x_bound for one in zero] == [None, None]


@pytest.mark.parametrize("serving", ["ideal", "vllm"])
def test_no_policy_is_below_the_bound(serving: str) -> None:
    classical = [name for name in POLICIES if name not in ("decima", "ppo")]
    for belief, load in [("bayes", 0.5), ("oracle", 3.0)]:
        cluster = load_cluster("a100_llama2_7b", engines=1, regular_executors=4, serving=serving)
        result = compare(
            classical, workload="task_automation", cluster=cluster, belief=belief,
            load=load, num_jobs=20, episodes=2,
        )  # fmt: skip
        table = result.episodes
        assert (table["bound_s"] > 0).all()
        assert (table["bound_s"] <= table["mean_jct_s"]).all()
        assert (table.groupby("episode")["bound_s"].nunique() == 1).all()
        assert (result.summary["x_bound"] >= 1).all()
        assert result.summary["x_bound"].min() < 2


@pytest.mark.parametrize("scale", [0.01, 0.5, 1.0, 30.0, 300.0])
@pytest.mark.parametrize(("count", "gap"), [(1, True), (5, False), (len(POLICIES), True)])
def test_tables_fit_into_80_columns(scale: float, count: int, gap: bool) -> None:
    labels = [*list(POLICIES)[:count], "sjf", "srtf_oracle", "srtf_own_oracle"]
    applications = "abcdef"
    played = {label: near(scale * (1 + n / 10), n, 3) for n, label in enumerate(labels)}
    found = (replace(one, bound_s=0.07 * scale) for one in episodes(played, applications))
    summaries = summarise(list(found), ["srtf_oracle", "srtf_own_oracle"])
    text = shown(summaries, gap)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    letters = "".join(text.split())
    for one in summaries:
        assert one.policy in letters or len(one.policy) > 12
        assert one.slowdown is not None


def test_applications_and_policies_are_sorted() -> None:
    played = episodes(
        {"mine": [[1.0, 9.0]] * 2, "worse": [[2.0, 20.0]] * 2, "best": [[1.0, 5.0]] * 2}
    )
    (table,) = application_tables(summarise(played))
    heads = [str(column.header) for column in table.columns]
    assert heads == ["application", "best", "mine", "worse"]
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells == [["b", "a"], ["5.0", "1.0"], ["9.0", "1.0"], ["20.0", "2.0"]]
    assert application_tables(summarise(episodes({"mine": [[1.0, 2.0]] * 2}, "a"))) == []


def test_many_policies_make_several_tables() -> None:
    played = {label: near(1 + n / 10, n, 2) for n, label in enumerate(POLICIES)}
    summaries = summarise(episodes(played))
    tables = application_tables(summaries, WIDTH)
    assert len(tables) > 1
    assert sum(len(table.columns) - 1 for table in tables) == len(POLICIES)
    (one,) = application_tables(summaries, 1000)
    assert len(one.columns) == len(POLICIES) + 1


# --- Slowdown -------------------------------------------------------------------------------------


def test_slowdown_is_over_the_time_alone(tmp_path: Path) -> None:
    result = compare(["fcfs", "sjf"], workload="task_automation", num_jobs=8, episodes=2, load=2.0)
    env = LLMSchedEnv("task_automation", num_jobs=8, load=2.0)
    empty = EmptyCluster(env.bank, env.cluster)
    for row, one in zip(result.summary.to_dict("records"), result.summaries, strict=True):
        mine = [episode for episode in result.played if episode.policy == one.policy]
        alone = [empty.alone_s(episode.jobs["bank_job"]) for episode in mine]
        jct = [episode.jobs["jct_s"] for episode in mine]
        expected = slowdown(np.concatenate(jct), np.concatenate(alone)).mean()
        assert row["mean_slowdown"] == one.slowdown == pytest.approx(expected)
        assert one.slowdown is not None
        assert one.slowdown > 0.9
    result.write(tmp_path)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["verdict"] == result.verdict
    assert written["policies"]["sjf"]["mean_slowdown"] == result.summaries[1].slowdown
    assert written["policies"]["sjf"]["applications"] == result.summaries[1].applications
    assert (tmp_path / "jobs.csv").read_text() == result.jobs.to_csv(index=False)


def test_episodes_that_an_older_version_kept_have_no_slowdown() -> None:
    played = episodes({"fcfs": near(1)})
    old = [
        replace(one, jobs={k: v for k, v in one.jobs.items() if k != "alone_s"}) for one in played
    ]
    (summary,) = summarise(old)
    assert summary.slowdown is None
    assert "fcfs" in shown([summary])

"""Comparisons as Python objects: the same as the command's, without its files and its output."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from llmsched_gym.agents.base import Observation, Policy, PriorityPolicy, Scores, make_policy
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.commands import evaluate
from llmsched_gym.errors import InputError
from llmsched_gym.evaluation import Comparison, compare
from llmsched_gym.evaluation.results import REFERENCES
from llmsched_gym.workload.mixes import make_workload

SETTINGS: dict[str, Any] = {
    "workload": make_workload("task_automation", jobs_per_application=40),
    "cluster": load_cluster("a100_llama2_7b", engines=1, max_batch=2),
    "num_jobs": 10,
    "load": 2.0,
    "episodes": 2,
}
PNG = b"\x89PNG\r\n\x1a\n"


class First(PriorityPolicy):
    """The row that comes first, which is the job that arrived first."""

    def priority(self, observation: Observation) -> Scores:
        return np.zeros(observation["stages"].shape[:-1])


class Once(First):
    """Plays an episode and remembers it."""

    played = False

    def reset(self, seed: int | None = None) -> None:
        assert not self.played
        self.played = True


def small(policies: Any, **changed: Any) -> Comparison:
    return compare(policies, **SETTINGS | changed)


def jobs(result: Comparison, policy: str) -> pd.DataFrame:
    """What became of the jobs of one policy."""
    own = result.jobs[result.jobs["policy"] == policy]
    return own.drop(columns="policy").reset_index(drop=True)


def alike(*tables: pd.DataFrame) -> bool:
    return all(table.equals(tables[0]) for table in tables)


@pytest.fixture(scope="module")
def result() -> Comparison:
    return small(["llmsched", "fcfs", "sjf"], seed=4)


def test_the_command_writes_the_same(
    result: Comparison, run_main: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = run_main(
        evaluate.main,
        *("policy=llmsched", "baselines=[fcfs,sjf]", "seed=4", "output_dir=out", "processes=1"),
        *("workload=task_automation", "workload.jobs_per_application=40", "workload.load=2"),
        *("cluster.engines=1", "cluster.max_batch=2", "num_jobs=10", "episodes=2"),
    )
    assert (code, err) == (0, "")
    assert len(result.jobs) == 5 * 2 * 10
    assert result.jobs.to_csv(index=False) == Path("out/jobs.csv").read_text()
    written = pd.read_csv("out/episodes.csv")
    assert list(written) == list(result.episodes)
    clock = "decision_us"  # differs from run to run
    assert (result.episodes[clock] > 0).all()
    pd.testing.assert_frame_equal(
        result.episodes.drop(columns=clock), written.drop(columns=clock), rtol=1e-12
    )
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["notes"] == list(result.notes)
    assert all(note in out for note in result.notes)
    assert list(summary["policies"]) == list(result.summary["policy"])
    for row in result.summary.to_dict("records"):
        one = summary["policies"][row["policy"]]
        assert row["clairvoyant"] == one["clairvoyant"] == (row["policy"] in REFERENCES)
        for name in ("p50_jct_s", "p95_jct_s", "p99_jct_s"):
            assert row[name] == one[name]
        for name in ("mean_jct", "reduction", "gap_closed"):
            estimate = one[name] or {"value": None, "low": None, "high": None}
            column = "mean_jct_s" if name == "mean_jct" else name
            for ending, number in (("", "value"), ("_low", "low"), ("_high", "high")):
                if estimate[number] is None:
                    assert math.isnan(row[column + ending])
                else:
                    assert row[column + ending] == estimate[number]


def test_the_summary_follows_from_the_jobs(result: Comparison) -> None:
    table = result.summary.set_index("policy")
    assert list(table.index) == ["llmsched", "fcfs", "sjf", *REFERENCES]
    mean = {policy: jobs(result, policy)["jct_s"].mean() for policy in table.index}
    assert table["mean_jct_s"].to_dict() == pytest.approx(mean)
    assert (table["mean_jct_s_low"] <= table["mean_jct_s"]).all()
    assert (table["mean_jct_s"] <= table["mean_jct_s_high"]).all()
    for policy, jct_s in result.jct_s().items():
        np.testing.assert_array_equal(jct_s, jobs(result, policy)["jct_s"])
    assert table["reduction"].isna().to_list() == [True, *[False] * 4]
    below = 1 - mean["llmsched"] / mean["fcfs"]
    assert table.loc["fcfs", "reduction"] == pytest.approx(below)
    gap = mean["sjf"] - min(mean[label] for label in REFERENCES)
    assert gap > 0
    way = (mean["sjf"] - mean["llmsched"]) / gap
    assert table.loc["llmsched", "gap_closed"] == pytest.approx(way)


def test_nothing_is_printed_or_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = small(["llmsched", "fcfs"])
    assert len(result.summary) == 4
    result.jct_cdf()
    result.jct_by_policy()
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_two_processes_find_the_same_as_one(capfd: pytest.CaptureFixture[str]) -> None:
    policies: dict[str, Any] = {
        "eager": ("llmsched", {"epsilon": 1.0}),
        "random": "random",
        "object": make_policy("fcfs"),
    }
    one, two = (small(policies, processes=processes) for processes in (1, 2))
    assert alike(one.jobs, two.jobs)
    assert alike(one.summary, two.summary)
    assert capfd.readouterr() == ("", "")


def test_the_seed_determines_all() -> None:
    first, again, other = (small(["random"], seed=seed).jobs for seed in (0, 0, 1))
    assert alike(first, again)
    assert not alike(first, other)


# --- Policies -------------------------------------------------------------------------------------


def test_policies_by_name_class_and_object_have_their_labels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "policies_of_mine.py").write_text(
        "from llmsched_gym.agents import PriorityPolicy, job_feature\n"
        "class Oldest(PriorityPolicy):\n"
        "    def priority(self, observation):\n"
        "        return job_feature(observation, 'age_s')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    listed = small(["policies_of_mine:Oldest", First(), "fcfs"])
    labels = ["policies_of_mine:Oldest", "First", "fcfs"]
    assert list(listed.summary["policy"]) == [*labels, *REFERENCES]
    assert alike(*(jobs(listed, label) for label in labels))  # all three serve who came first
    named = small({"mine": First(), "theirs": "fcfs", "made": ("fcfs", {})}, reference=False)
    assert list(named.summary["policy"]) == ["mine", "theirs", "made"]
    assert alike(jobs(listed, "fcfs"), *(jobs(named, label) for label in ("mine", "made")))


def test_options_are_those_of_the_policy() -> None:
    options: dict[str, Any] = {"epsilon": 1.0, "explore_fraction": 1.0}
    made = make_policy("llmsched", **options)
    result = small({"eager": ("llmsched", options), "made": made, "default": "llmsched"})
    assert alike(jobs(result, "eager"), jobs(result, "made"))
    assert not alike(jobs(result, "eager"), jobs(result, "default"))


def test_each_episode_is_played_by_a_copy() -> None:
    given = Once()
    result = small([given], reference=False)
    assert len(result.episodes) == 2
    assert not given.played


def test_the_reference_can_be_left_out() -> None:
    result = small(["sjf", "fcfs"], reference=False)
    assert list(result.summary["policy"]) == ["sjf", "fcfs"]
    assert not result.summary["clairvoyant"].any()
    assert result.summary["gap_closed"].isna().all()
    assert not any("Clairvoyant" in note for note in result.notes)


def test_without_a_belief_policies_that_need_none_are_compared() -> None:
    result = small(["fair", "fcfs"], belief="none")
    clairvoyant = result.summary.set_index("policy")["clairvoyant"]
    assert clairvoyant.to_dict() == {"fair": False, "fcfs": False} | dict.fromkeys(REFERENCES, True)


def test_who_sees_the_truth_is_marked() -> None:
    result = small(["srtf", "fcfs"], belief="oracle")
    assert list(result.clairvoyant) == ["srtf", *REFERENCES]
    assert alike(jobs(result, "srtf"), jobs(result, "srtf_oracle"))


def test_environment_options_reach_the_environment() -> None:
    few = small(["fcfs"], max_jobs=1, cluster="constant", arrival_rate=2.0, reference=False)
    assert few.setting.cluster == "constant"
    assert few.setting.load is None
    assert "2 jobs/s" in few.setting.title
    all_shown = small(["fcfs"], cluster="constant", arrival_rate=2.0, reference=False)
    assert alike(few.jobs[["arrival_s"]], all_shown.jobs[["arrival_s"]])
    assert not alike(few.jobs, all_shown.jobs)  # with one job shown only that one can be served


# --- Figures --------------------------------------------------------------------------------------


def test_figures_show_every_policy_and_themselves(result: Comparison) -> None:
    curves, bars = result.jct_cdf(), result.jct_by_policy()
    labels = ["llmsched", "fcfs", "sjf", *(f"{one} (clairvoyant)" for one in REFERENCES)]
    assert curves.axes[0].get_legend_handles_labels()[1] == labels
    means = dict(zip(labels, result.summary["mean_jct_s"], strict=True))
    order = sorted(labels, key=means.__getitem__)
    assert [text.get_text() for text in bars.axes[0].get_yticklabels()] == order
    widths = [bar.get_width() for bar in bars.axes[0].patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([means[label] for label in order])
    for figure in (curves, bars):
        assert isinstance(figure, Figure)
        assert figure.get_suptitle() == result.setting.title
        assert figure._repr_png_().startswith(PNG)  # type: ignore[attr-defined]


def test_a_comparison_can_be_written(result: Comparison, tmp_path: Path) -> None:
    result.write(tmp_path, settings={"about": "this"})
    names = ["episodes.csv", "jct_by_policy.png", "jct_cdf.png", "jobs.csv", "summary.json"]
    assert sorted(os.listdir(tmp_path)) == names
    assert json.loads((tmp_path / "summary.json").read_text())["settings"] == {"about": "this"}
    assert (tmp_path / "jct_cdf.png").read_bytes().startswith(PNG)


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policies", "changed", "message"),
    [
        (["fcsf"], {}, "unknown 'fcsf' (did you mean 'fcfs'?), choose from"),
        (["nowhere:Policy"], {}, "cannot import 'nowhere'"),
        (["fcfs", "sjf", "fcfs"], {}, "'fcfs' is there twice"),
        ([First(), First()], {}, "'First' is there twice"),
        ({"srtf_oracle": "fcfs"}, {}, "'srtf_oracle' is there twice"),
        ({"mine": ("llmsched", {"epsilom": 1})}, {}, "unknown option 'epsilom'"),
        ({"mine": ("llmsched", {"epsilon": 2})}, {}, "epsilon: 2 is not a number from 0 to 1"),
        ("fcfs", {}, "'fcfs' is not a list such as"),
        (First(), {}, "is not a list such as"),
        ([], {}, "policies: there is none"),
        ({}, {"reference": False}, "policies: there is none"),
        ([First], {}, "is neither a name nor a policy (an object, not a class)"),
        ([None], {}, "policies: None is neither a name nor a policy"),
        ({"mine": ("fcfs",)}, {}, "policies: ('fcfs',) is neither a name nor a policy"),
        (["fcfs"], {"nosuch": 1}, "unknown option 'nosuch'; valid here: belief_settings, "),
        (["fcfs"], {"strict": False}, "unknown option 'strict'"),
        (["fcfs"], {"time_limit": 1.0}, "unknown option 'time_limit'"),
        (["fcfs"], {"num_jobs": 2.5}, "num_jobs: 2.5 is not a whole number"),
        (["fcfs"], {"load": "high"}, "load: 'high' is not a positive number"),
        (["fcfs", "llmsched"], {"belief": "none"}, "llmsched: needs belief=bayes"),
        (["fcfs"], {"belief": "bays"}, "belief: unknown 'bays', choose from"),
        (["fcfs"], {"workload": "plannning"}, "workload: unknown 'plannning'"),
        (["fcfs"], {"cluster": "a100"}, "cluster: unknown name 'a100'"),
        (["fcfs"], {"num_jobs": 0}, "num_jobs: 0 is not a whole number from 1 to"),
        (["fcfs"], {"load": -1.0}, "load: -1.0 is not a positive number"),
        (["fcfs"], {"episodes": 0}, "episodes: 0 is not a whole number of at least 1"),
        (["fcfs"], {"episodes": 2.0}, "episodes: 2.0 is not a whole number of at least 1"),
        (["fcfs"], {"processes": 0}, "processes: 0 is not a whole number of at least 1"),
        (["fcfs"], {"seed": -1}, "seed: -1 is not a whole number of at least 0"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    policies: Any, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as error:
        small(policies, **changed)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_illegal_action_ends_the_comparison() -> None:
    class Wild(Policy):
        def act(self, observation: Observation) -> int:
            return 10**6

    with pytest.raises(InputError, match="policy Wild: episode 0: ") as error:
        small([Wild()])
    assert "\n" not in str(error.value)

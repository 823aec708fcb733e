"""Comparisons as Python objects: names from anywhere, beliefs, titles, errors."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from llmsched_gym.agents.base import Observation, Policy, PriorityPolicy, Scores, stage_feature
from llmsched_gym.errors import PolicyError
from llmsched_gym.evaluation import compare
from llmsched_gym.evaluation.results import REFERENCES
from llmsched_gym.workload.arrivals import Burst, Poisson
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage
from llmsched_gym.workload.mixes import Workload, make_workload

SMALL: dict[str, Any] = {"num_jobs": 6, "episodes": 2, "belief": "prior"}
ORACLE, NOTHING = SMALL | {"belief": "oracle"}, SMALL | {"belief": "none"}
ODD = ("$_$", "[red]x[/red]", ":smile:", "\x1b[2J", "\ud800", "_a", "a\nb", "x^{", '100 %,"')


class Reader(PriorityPolicy):
    """It reads beliefs and says nothing about it."""

    def priority(self, observation: Observation) -> Scores:
        """Least expected demand first."""
        return -stage_feature(observation, "demand_s")


def odd_workload() -> Workload:
    jobs = [
        Job(name, f"{name}-{i}", (Stage("s", Kind.LLM, (), (LLMTask(10 + i, 20 + i),)),))
        for name in ODD
        if name.isprintable()  # others are no names of applications
        for i in range(4)
    ]
    return Workload("$w_$ [bold]", JobBank.from_jobs(jobs), JobBank.from_jobs(jobs), Poisson())


def test_names_from_anywhere_are_survived(tmp_path: Path) -> None:
    policies = dict.fromkeys(ODD, "fcfs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare(policies, workload=odd_workload(), **SMALL)
        result.write(tmp_path)
    names = {"episodes.csv", "jobs.csv", "summary.json", "jct_cdf.png", "jct_by_policy.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert set(json.loads((tmp_path / "summary.json").read_text())["policies"]) >= set(ODD)
    with (tmp_path / "jobs.csv").open(newline="") as file:
        labels = {row["policy"] for row in csv.DictReader(file)}
    assert labels == {*ODD, *REFERENCES} - {"\ud800"} | {"\\ud800"}
    with (tmp_path / "shown").open("w", encoding="utf-8") as file:  # a terminal of a user's own
        Console(file=file, width=200, force_terminal=True).print(result.table())
    shown = (tmp_path / "shown").read_text()
    for label in ("$_$", "[red]x[/red]", ":smile:", "\\x1b[2J", "\\ud800", "$w_$ [bold]"):
        assert label in shown
    assert "\x1b[2J" not in shown


def test_one_figure_that_fails_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compare(["fcfs"], workload="task_automation", **SMALL)

    def fails(_self: object) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(type(result), "jct_cdf", fails)
    result.write(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".json", ".png"}
    assert not (tmp_path / "jct_cdf.png").exists()
    assert capsys.readouterr().err == "jct_cdf.png could not be drawn: ValueError: no room\n"


def test_who_reads_the_oracle_is_clairvoyant_without_saying_so() -> None:
    result = compare([Reader(), "fcfs"], workload="task_automation", **ORACLE)
    assert set(result.clairvoyant) == {"Reader", *REFERENCES}
    without = compare([Reader()], workload="task_automation", **NOTHING)
    assert without.clairvoyant == REFERENCES


def test_a_burst_has_no_load(tmp_path: Path) -> None:
    workload = make_workload("task_automation", jobs_per_application=40, arrivals="burst")
    assert isinstance(workload.arrivals, Burst)
    result = compare(["fcfs"], workload=workload, load=2.0, **SMALL)
    assert result.setting.title.startswith("task_automation all jobs at once on a100")
    assert "load" not in result.setting.title
    assert not any("offered" in note for note in result.notes)
    assert result.episodes["load"].isna().all()
    rate = compare(["fcfs"], workload="task_automation", arrival_rate=0.5, **SMALL)
    assert "task_automation at 0.5 jobs/s on" in rate.setting.title


def test_the_mean_that_a_sweeper_is_told() -> None:
    result = compare(["sjf", "fcfs"], workload="task_automation", **SMALL)
    means = result.episodes.query("policy == 'sjf'")["mean_jct_s"]
    assert result.mean_jct_s == pytest.approx(means.mean())
    assert np.isfinite(result.mean_jct_s)


def test_what_a_policy_raises_names_it() -> None:
    class Late(Policy):
        decisions = 0

        def act(self, observation: Observation) -> int:
            self.decisions += 1
            if self.decisions == 4:
                raise LookupError("gone")
            return int(observation["action_mask"].argmax())

    with pytest.raises(PolicyError) as caught:
        compare({"late": Late()}, workload="task_automation", **SMALL)
    assert str(caught.value) == "policy late: episode 0: decision 3: LookupError: gone"
    assert isinstance(caught.value.__cause__, LookupError)

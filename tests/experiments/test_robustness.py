"""The robustness study: ranks and orders by hand, and a small run of it from end to end."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from llmsched_gym.agents import make_policy
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.commands import evaluate
from llmsched_gym.env import LLMSchedEnv
from llmsched_gym.evaluation import play
from llmsched_gym.experiments.cells import Place
from llmsched_gym.experiments.rankings import agreement, orders, picture, ratio, standings
from llmsched_gym.experiments.robustness import plan_robustness
from llmsched_gym.experiments.tables import Measured, Played
from llmsched_gym.workload.mixes import make_workload
from support.refusals import refused
from support.sampled import sampled

TINY = (
    *("experiment=robustness", "experiment.workloads=[planning]", "processes=1"),
    *("experiment.episodes=2", "experiment.num_jobs=30", "output_dir=out"),
    *("workload.jobs_per_application=40", "experiment.policies=[srtf,sjf]"),
)
CHANGES = (
    *("experiment.changes=null", "+experiment.changes.few={past_jobs:3}"),
    *(
        "+experiment.changes.other={past_mix:predefined}",
        "+experiment.changes.drift={past_token_scale:2}",
        "+experiment.changes.fast={cluster:h100_llama31_8b}",
    ),
)
Command = Callable[..., tuple[int, str, str]]


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


# --- by hand --------------------------------------------------------------------------------------


def measured(change: str, policy: str, means: ArrayLike, rate: float = 1.0) -> Measured:
    """Episodes of two jobs with these mean JCTs."""
    episodes = tuple(
        Played(
            number,
            *(1.0, 1.0, 0.5),
            np.array(["a", "a"], object),
            np.array([0.0, 1 / rate]),
            np.array([mean - 0.5, mean + 0.5]),
            np.ones(2),
        )
        for number, mean in enumerate(np.asarray(means))
    )
    return Measured(change, Place(f"w/{change}", 1.3, 1), policy, "bayes", episodes)


NOISE = np.array([0.0, 1.0, 2.0, 1.0, 0.5])
STUDY = [
    measured("unchanged", "one", 10 + NOISE),
    measured("unchanged", "two", 12 + NOISE),
    measured("unchanged", "fcfs", 20 + NOISE),
    measured("few", "one", 15 + NOISE),  # behind two now, before fcfs still
    measured("few", "two", 13 + NOISE),
    measured("few", "fcfs", 20 + NOISE),
    measured("fast", "one", 5 + NOISE, rate=2.0),
    measured("fast", "two", 5 + NOISE[::-1], rate=2.0),  # the same mean: nobody is better
    measured("fast", "fcfs", 9 + NOISE, rate=2.0),
]


def test_standings_by_hand() -> None:
    found = {(one.change, one.policy): one for one in standings(STUDY)}
    ranks = {key: one.rank for key, one in found.items()}
    assert [ranks["unchanged", name] for name in ("one", "two", "fcfs")] == [1, 2, 3]
    assert [ranks["few", name] for name in ("one", "two", "fcfs")] == [2, 1, 3]
    assert [ranks["fast", name] for name in ("one", "two", "fcfs")] == [1, 1, 3]
    one = found["few", "one"]
    assert one.jct.value == pytest.approx(15.9)
    assert one.x_ruler.value == pytest.approx(15.9 / 20.9)
    assert one.x_unchanged.value == pytest.approx(15.9 / 10.9)
    assert found["few", "two"].x_first.value == pytest.approx(13.9 / 15.9)
    assert found["unchanged", "two"].x_unchanged.value == 1.0
    assert found["fast", "one"].x_unchanged.value is None, "its jobs come at other times"


def test_a_ratio_has_a_paired_interval_around_it() -> None:
    found = ratio(10 + NOISE, 20 + 2 * NOISE)
    assert tuple(found) == pytest.approx((0.5, 0.5, 0.5))
    value, low, high = ratio([8.0, 12.0, 9.0], [10.0, 10.0, 10.0])
    assert low is not None
    assert high is not None
    assert value == pytest.approx(29 / 30)
    assert low < 29 / 30 < high


def test_orders_by_hand() -> None:
    few, fast = orders(STUDY)
    assert (few.workload, few.change, few.clear, few.hold) == ("w", "few", 3, 2)
    assert few.reversed == (("one", "two"),)
    assert few.tau == pytest.approx((2 - 1) / 3)
    assert (fast.clear, fast.hold, fast.reversed) == (3, 2, ())
    assert fast.tau == pytest.approx(2 / np.sqrt(3 * 2))
    assert agreement(few) == "0.33 (2/3)"


def test_where_all_are_alike_there_is_no_tau() -> None:
    alike = [measured(c, p, 9 + NOISE) for c in ("unchanged", "few") for p in ("one", "fcfs")]
    (order,) = orders(alike)
    assert (order.tau, order.clear, order.reversed) == (None, 0, ())
    assert agreement(order) == "- (0/0)"
    single = [measured(*key, [mean]) for key, mean in ((("unchanged", "fcfs"), 9.0),)]
    assert standings(single)[0].x_ruler == (1.0, None, None)


def test_the_picture_has_a_mark_for_all_but_the_ruler() -> None:
    found = standings(STUDY)
    figure = picture(found, "a title")
    assert figure is not None
    (axes,) = figure.axes
    drawn = [np.asarray(line.get_xdata(), np.float64) for line in axes.lines]
    marks = [xs.tolist() for xs in drawn if len(xs) == 3]
    assert marks == [
        [one.x_ruler.value for one in found if one.policy == name] for name in ("one", "two")
    ]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["unchanged", "few", "fast"]
    assert picture([one for one in found if one.policy == "fcfs"], "the ruler alone") is None


# --- the experiment -------------------------------------------------------------------------------


@pytest.fixture
def command(run_main: Command) -> Command:
    """Runs a small study in an empty folder: exit code, stdout, stderr."""
    return lambda *arguments: run_main(evaluate.main, *TINY, *arguments)


def test_a_small_study_from_end_to_end(command: Command) -> None:
    code, out, err = command(*CHANGES)
    assert (code, err) == (0, "")
    rows = table("out/standings.csv")
    changes = ["unchanged", "few", "other", "drift", "fast"]
    assert [(row["change"], row["policy"]) for row in rows] == [
        (change, policy) for change in changes for policy in ("srtf", "sjf", "fcfs")
    ]
    means = {(row["change"], row["policy"]): float(row["mean_jct_s"]) for row in rows}
    for row in rows:
        mean = means[row["change"], row["policy"]]
        assert f"{mean:.1f}" in out
        assert float(row["x_fcfs"]) == pytest.approx(mean / means[row["change"], "fcfs"])
        assert float(row["x_first"]) == pytest.approx(mean / means[row["change"], "srtf"])
        before = means["unchanged", row["policy"]]
        assert row["x_unchanged"] == "" or float(row["x_unchanged"]) == pytest.approx(mean / before)
        assert (row["x_unchanged"] == "") == (row["change"] == "fast")
    assert len({means[change, "fcfs"] for change in changes[:4]}) == 1, "it looks at no belief"
    assert means["few", "srtf"] != means["unchanged", "srtf"]
    assert [row["change"] for row in table("out/orders.csv")] == changes[1:]
    assert Path("out/robustness.png").read_bytes().startswith(b"\x89PNG")
    about = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    assert about["settings"]["experiment"]["changes"]["few"] == {"past_jobs": 3}
    assert max(map(len, (line for line in out.splitlines() if line[:1] not in "-F"))) <= 80
    kept = {path: path.stat().st_mtime_ns for path in Path("out/cells").iterdir()}
    assert command(*CHANGES)[0] == 0, "the same command goes on"
    assert {path: path.stat().st_mtime_ns for path in Path("out/cells").iterdir()} == kept


def test_a_change_is_what_the_options_say(command: Command) -> None:
    code, _, err = command(
        "experiment.changes=null",
        "+experiment.changes.mine={past_jobs:5,past_token_scale:0.5,cluster:l40s_llama31_8b}",
        "experiment.policies=[srtf]",
        "cluster.engines=2",
    )
    assert (code, err) == (0, "")
    cluster = load_cluster("l40s_llama31_8b", engines=2, regular_executors=32)
    workload = make_workload("planning", jobs_per_application=40, past_jobs=5, past_token_scale=0.5)
    env = LLMSchedEnv(workload, cluster, num_jobs=30, load=1.3)
    played = [play(env, make_policy("srtf"), "srtf", 0, n).jobs["jct_s"].mean() for n in range(2)]
    (row,) = (
        row
        for row in table("out/standings.csv")
        if (row["change"], row["policy"]) == ("mine", "srtf")
    )
    assert float(row["mean_jct_s"]) == pytest.approx(np.mean(played))


def test_a_change_cannot_have_a_name_that_places_are_split_at(tmp_path: Path) -> None:
    """A command line has no such names; files have."""
    given = {
        **{"name": "x", "workloads": ["planning"], "load": 1.3, "episodes": 1, "num_jobs": 2},
        **{"policies": ["fcfs"], "changes": {"a/b": {}}, "ray": None},
    }
    cluster = load_cluster("constant")
    with pytest.raises(ValueError, match="experiment.changes: 'a/b' cannot be the name"):
        plan_robustness(given, {"name": "planning"}, cluster, BeliefSettings(), 0, tmp_path)


@sampled(
    ("argument", "message"),
    [
        ("+experiment.changes.a={past_job:5}", "unknown option 'experiment.changes.a.past_job'"),
        (
            "+experiment.changes.a={past_jobs:0}",
            "experiment.changes.a.past_jobs: 0 is not a whole",
        ),
        (
            "+experiment.changes.a={past_mix:chain}",
            "experiment.changes.a: past_mix: unknown 'chain'",
        ),
        ("+experiment.changes.a={past_mix:5}", "experiment.changes.a.past_mix: 5 is not a text"),
        (
            "+experiment.changes.a={past_token_scale:-1}",
            "experiment.changes.a.past_token_scale: -1 is not a positive number",
        ),
        (
            "+experiment.changes.a={past_token_scale:1e9}",
            "experiment.changes.a: past_token_scale: 1000000000.0 makes a task",
        ),
        (
            "+experiment.changes.a={cluster:h100}",
            "experiment.changes.a: cluster: unknown name 'h100'",
        ),
        ("+experiment.changes.a=5", "experiment.changes: each needs options such as {past_jobs"),
        ("experiment.changes=5", "experiment.changes: each needs options such as {past_jobs: 50}"),
        ("+experiment.changes.unchanged={}", "experiment.changes: 'unchanged' cannot be the name"),
        ("experiment.workloads=[plan]", "workload: unknown 'plan'"),
        ("experiment.workloads=[]", "experiment.workloads: name at least one"),
        ("experiment.policies=[]", "experiment.policies: name at least one"),
        ("experiment.policies=[best]", "policy: unknown 'best'"),
        ("experiment.policies=[sjf,sjf]", "experiment.policies: 'sjf' is there twice"),
        ("experiment.load=0", "experiment.load: 0 is not a positive number"),
        ("workload.arrivals=burst", "workload.arrivals: an experiment has a load"),
        (
            "workload.load=2",
            "workload.load: not an option of an experiment, which has experiment.lo",
        ),
        ("num_jobs=5", "num_jobs: not an option of an experiment, which has experiment.num_jobs"),
        ("belief=prior", "belief: not an option of an experiment, which has experiment.policies"),
        ("report=true", "report: not an option of an experiment, which has tables and a picture"),
    ],
)
def test_bad_input_ends_with_one_line(
    command: Command, tmp_path: Path, argument: str, message: str
) -> None:
    assert message in refused(tmp_path, *command(argument))

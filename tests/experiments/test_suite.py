"""The suite: its scores, a small run of it from end to end, and the leaderboard."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from llmsched_gym import metrics
from llmsched_gym.agents import make_policy
from llmsched_gym.belief import BeliefSettings
from llmsched_gym.commands import evaluate
from llmsched_gym.env import SCENARIOS, SUITE, LLMSchedEnv
from llmsched_gym.evaluation import play
from llmsched_gym.evaluation.comparison import CLAIRVOYANTS
from llmsched_gym.evaluation.results import OWN_REFERENCE, best_reference
from llmsched_gym.experiments import leaderboard
from llmsched_gym.experiments.plan import variant_of
from llmsched_gym.experiments.scores import MEAN, Score, picture, scores
from llmsched_gym.experiments.suite import ENDS
from llmsched_gym.metrics import Estimate
from support.html import Page
from support.refusals import refused
from support.sampled import sampled

ROOT = Path(__file__).parents[2]
TINY = (
    *("experiment=suite", "experiment.scenarios=[fact_checking,both_scarce]", "processes=1"),
    *("experiment.episodes=1", "experiment.num_jobs=30", "output_dir=out"),
)
Command = Callable[..., tuple[int, str, str]]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


# --- scores ---------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    played = {
        "one": {
            "mine": [8.0, 10.0],
            "sjf": [10.0, 14.0],
            "srtf_oracle": [8.0, 8.0],
            "srtf_own_oracle": [6.0, 8.0],  # the lower one: mean 7
        },
        "two": {
            "mine": [5.0, 5.0],
            "sjf": [4.0, 4.0],
            "srtf_oracle": [2.0, 2.0],  # the lower one here
            "srtf_own_oracle": [3.0, 3.0],
        },
    }
    assert [best_reference(means) for means in played.values()] == [OWN_REFERENCE, "srtf_oracle"]
    found = {(one.scenario, one.policy): one for one in scores(played, {"one": 6.0})}
    assert found["one", "mine"].x_bound == 1.5
    assert found["two", "mine"].x_bound is found[MEAN, "mine"].x_bound is None
    assert found["one", "mine"].score.value == pytest.approx((12 - 9) / (12 - 7))
    assert found["two", "mine"].score.value == pytest.approx((4 - 5) / (4 - 2))
    assert found[MEAN, "mine"].score.value == pytest.approx((0.6 - 0.5) / 2)
    assert found["one", "mine"].jct.value == 9.0
    assert {found[name, "sjf"].score.value for name in (*played, MEAN)} == {0.0}
    assert found["one", OWN_REFERENCE].score.value == found["two", "srtf_oracle"].score.value == 1.0
    assert found[MEAN, "srtf_oracle"].score.value == pytest.approx((4 / 5 + 1) / 2)


def test_the_mean_of_scores_has_the_interval_of_its_resamples() -> None:
    rng = np.random.default_rng(0)
    sjf = rng.normal(10, 1, (3, 40))
    best, mine = 0.7 * sjf, 0.8 * sjf + rng.normal(0, 0.3, (3, 40))
    places = list(zip(mine, sjf, best, strict=True))
    found = metrics.mean_gap_closed(places)
    each = [metrics.gap_closed(*place) for place in places]
    assert found.value == pytest.approx(np.mean([one.value for one in each]))  # type: ignore[misc]
    drawn = rng.integers(40, size=(4000, 40))
    means = [x[:, drawn].mean(2) for x in (mine, sjf, best)]
    resampled = ((means[1] - means[0]) / (means[1] - means[2])).mean(0)
    assert (found.low, found.high) == pytest.approx(
        np.quantile(resampled, (0.025, 0.975)), abs=0.01
    )
    assert metrics.mean_gap_closed(places[:1]) == each[0]
    with pytest.raises(ValueError, match="there is none"):
        metrics.mean_gap_closed([])


def test_the_mean_of_reductions_counts_places_alike() -> None:
    rng = np.random.default_rng(1)
    jct_s = rng.uniform(10.0, 30.0, (3, 2, 12)) * np.array([1.0, 10.0, 0.1])[:, None, None]
    places = [tuple(place) for place in jct_s]
    each = [metrics.reduction(*place) for place in places]
    found = metrics.mean_reduction(places)
    assert found.value == pytest.approx(np.mean([one.value for one in each]))
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert metrics.mean_reduction(places[:1]) == each[0]
    with pytest.raises(ValueError, match="places: there is none"):
        metrics.mean_reduction([])


def test_a_picture_has_a_mark_for_each_score_and_none_for_the_ends() -> None:
    nothing = Estimate(None)
    found = [
        Score(scenario, policy, nothing, Estimate(value, value - 0.1, value + 0.1))
        for policy, value in (("mine", 0.4), ("other", -0.3), ("sjf", 0.0))
        for scenario in ("one", "two", MEAN)
    ]
    figure = picture(found, "a title")
    assert figure is not None
    (axes,) = figure.axes
    drawn = [np.asarray(line.get_xdata(), np.float64) for line in axes.lines]
    marks = [float(xs[0]) for xs in drawn if len(xs) == 1]
    assert marks == pytest.approx([40.0] * 3 + [-30.0] * 3)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["one", "two", MEAN]
    assert picture(found[6:], "only the ends") is None


def test_the_references_are_those_of_a_comparison() -> None:
    for run in CLAIRVOYANTS:
        one = variant_of(run.label, BeliefSettings())
        assert (one.policy, dict(one.options), one.belief) == (run.policy, run.options, "oracle")
    assert tuple(run.label for run in CLAIRVOYANTS) == ENDS[1:]


# --- the experiment -------------------------------------------------------------------------------


@pytest.fixture
def command(run_main: Command) -> Command:
    """Runs a small suite in an empty folder: exit code, stdout, stderr."""
    return lambda *arguments: run_main(evaluate.main, *TINY, *arguments)


def test_a_small_suite_from_end_to_end(command: Command) -> None:
    policies = "experiment.policies=[fcfs,{name: srtf, demand: own, label: mine}]"
    code, out, err = command(policies)
    assert (code, err) == (0, "")
    labels = ["fcfs", "mine", *ENDS]
    rows = table(Path("out/episodes.csv"))
    assert [(row["scenario"], row["policy"]) for row in rows] == [
        (name, label) for name in ("fact_checking", "both_scarce") for label in labels
    ]
    means = {(row["scenario"], row["policy"]): float(row["mean_jct_s"]) for row in rows}
    assert all(row["num_jobs"] == "30" for row in rows)
    for row in table(Path("out/scores.csv")):
        if row["scenario"] == MEAN:
            continue
        sjf = means[row["scenario"], "sjf"]
        best = min(means[row["scenario"], label] for label in ENDS[1:])
        gone = 100 * (sjf - float(row["mean_jct_s"])) / (sjf - best)
        assert float(row["score"]) == pytest.approx(gone, abs=1e-9)
        assert row["policy"] in ENDS or f" {gone:.1f}" in out
    about = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    assert about["suite"] == SUITE
    assert about["policies"]["mine"] == {
        **{"policy": "srtf", "options": {"demand": "own"}, "belief": "bayes"}
    }
    assert about["clairvoyant"].keys() == {"fact_checking", "both_scarce"}
    assert Path("out/suite.png").read_bytes().startswith(b"\x89PNG")
    assert max(map(len, (line for line in out.splitlines() if line[:1] not in "-F"))) <= 80
    env = LLMSchedEnv(**SCENARIOS["both_scarce"].options() | {"num_jobs": 30}, belief="none")
    alone = play(env, make_policy("fcfs"), "fcfs", 0, 0).jobs["jct_s"].mean()
    assert means["both_scarce", "fcfs"] == pytest.approx(alone)
    kept = {path: path.stat().st_mtime_ns for path in Path("out/cells").iterdir()}
    assert command(policies, "report=true")[0] == 0, "the same command goes on"
    assert {path: path.stat().st_mtime_ns for path in Path("out/cells").iterdir()} == kept
    check_report(Path("out"), means)


def check_report(folder: Path, means: dict[tuple[str, str], float]) -> None:
    """Its scores are those of the file, its means those of the episodes."""
    page = Page(folder / "report.html")
    head, *rows = page.tables["scores-table"]
    labels = [one[1:] for one in head[1:]]  # after their marks
    found = {
        (row["scenario"], row["policy"]): f"{float(row['score']):.1f}"
        for row in table(folder / "scores.csv")
        if row["policy"] in labels
    }
    assert {
        (row[0], label): cell for row in rows for label, cell in zip(labels, row[1:], strict=True)
    } == found
    names = [row[0] for row in rows[:-1]]
    for number, name in enumerate(names):
        shown = page.tables[f"place{number}-policies-table"][1:]
        assert len(shown) == len(labels) + len(ENDS)
        assert sum("(clairvoyant)" in row[0] for row in shown) == 2
        assert [row[1].split()[0] for row in shown] == [
            f"{means[name, row[0][1:].removesuffix(' (clairvoyant)')]:.1f}" for row in shown
        ]
        assert all(float(row[6]) >= 1 for row in shown), "x bound"
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert all(SCENARIOS[name].tests in text for name in names)


def test_the_policy_of_the_command_line_plays(command: Command) -> None:
    code, out, err = command("policy=srtf", "policy.demand=own", "experiment.scenarios=[planning]")
    assert (code, err) == (0, "")
    assert out.startswith("srtf on the suite v1")
    about = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    assert about["policies"]["srtf"]["options"] == {"demand": "own"}


@sampled(
    ("argument", "message"),
    [
        ("experiment.scenarios=[fact_cheking]", "experiment.scenarios: unknown 'fact_cheking'"),
        ("experiment.scenarios=[]", "experiment.scenarios: name at least one"),
        ("experiment.suite=v0", "experiment.suite: here is v1, not 'v0'"),
        ("experiment.episodes=0", "experiment.episodes: 0 is not a whole number of at least 1"),
        ("experiment.policies=[best]", "policy: unknown 'best'"),
        ("experiment.policies=[fcfs,fcfs]", "experiment.policies: 'fcfs' is there twice"),
        ("experiment.policies=[srtf_oracle]", "experiment.policies: 'srtf_oracle' is there twice"),
        ("+experiment.loads=[1]", "unknown option 'experiment.loads'"),
        ("scenario=large", "scenario: not an option of an experiment, which has experiment.scen"),
        ("workload.load=1", "workload.load: not an option of an experiment, which has experim"),
        ("cluster.engines=2", "cluster.engines: not an option of an experiment"),
        ("num_jobs=5", "num_jobs: not an option of an experiment, which has experiment.num_jobs"),
        ("belief=prior", "belief: not an option of an experiment, which has experiment.policies"),
        ("animation=true", "animation: not an option of an experiment, which has a picture"),
    ],
)
def test_bad_input_ends_with_one_line(
    command: Command, tmp_path: Path, argument: str, message: str
) -> None:
    assert message in refused(tmp_path, *command(argument))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_leaves_something_to_learn(name: str) -> None:
    """The clairvoyant reference is at least 8 % below SJF, by the mean of five episodes."""

    def mean(env: LLMSchedEnv, policy: str, **options: Any) -> float:
        played = [play(env, make_policy(policy, **options), policy, 0, n) for n in range(5)]
        return float(np.mean([one.jobs["jct_s"].mean() for one in played]))

    bayes, oracle = (
        LLMSchedEnv(**SCENARIOS[name].options(), belief=belief) for belief in ("bayes", "oracle")
    )
    best = min(mean(oracle, "srtf", demand=demand) for demand in ("all", "own"))
    assert best <= 0.92 * mean(bayes, "sjf")


# --- the leaderboard ------------------------------------------------------------------------------


def written(folder: Path, **changes: Any) -> Path:
    """The files of a run of the whole suite, as far as the leaderboard reads them."""
    folder.mkdir()
    rows = [
        f"{scenario},{policy},1,1,1,{50 + number},{number},{90 + number}"
        for policy in ("mine", *ENDS)
        for number, scenario in enumerate((*SCENARIOS, MEAN))
    ]
    columns = "scenario,policy,mean_jct_s,mean_jct_s_low,mean_jct_s_high,score,score_low,score_high"
    (folder / "scores.csv").write_text("\n".join([columns, *rows, ""]), encoding="utf-8")
    policy = {"policy": "llmsched", "options": {"demand": "own"}, "belief": "bayes"}
    about = {
        "settings": {"experiment": {"episodes": 2, "num_jobs": None}, "seed": 3},
        "suite": SUITE,
        "commit": "abc",
        "policies": {"mine": policy, **dict.fromkeys(ENDS, policy)},
        **changes,
    }
    (folder / "summary.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The page and the leaderboard of this checkout, to be rewritten."""
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "suite.md", tmp_path / "docs")
    shutil.copy(ROOT / "leaderboard.csv", tmp_path)
    return tmp_path


def test_the_page_is_what_the_leaderboard_makes_of_it(root: Path) -> None:
    """After a change: python -m llmsched_gym.experiments.leaderboard."""
    assert leaderboard.main(["--root", str(root)]) == 0
    for name in ("docs/suite.md", "leaderboard.csv"):
        assert (root / name).read_text(encoding="utf-8") == (ROOT / name).read_text(
            encoding="utf-8"
        )
    assert (root / "docs" / "images" / "suite.png").read_bytes().startswith(b"\x89PNG")


def test_every_command_of_the_leaderboard_can_be_composed() -> None:
    for row in table(ROOT / "leaderboard.csv"):
        assert row["suite"] == SUITE
        assert row["commit"]
        assert row["command"].startswith("python evaluate.py experiment=suite ")


def test_a_run_is_taken_in_and_replaces_the_row_of_its_policy(root: Path) -> None:
    before = len(table(root / "leaderboard.csv"))
    for _ in range(2):
        run = root / "run"
        shutil.rmtree(run, ignore_errors=True)
        assert leaderboard.main([str(written(run)), "--root", str(root)]) == 0
    rows = table(root / "leaderboard.csv")
    assert len(rows) == before + 1
    (mine,) = (row for row in rows if row["policy"] == "mine")
    assert [mine[name] for name in SCENARIOS] == [f"{50 + n:.1f}" for n in range(12)]
    assert (mine["score"], mine["score_low"], mine["score_high"]) == ("62.0", "12.0", "102.0")
    assert (mine["episodes"], mine["seed"], mine["commit"]) == ("2", "3", "abc")
    assert mine["command"] == (
        "python evaluate.py experiment=suite 'experiment.policies=[{name: llmsched, demand: own, "
        "label: mine}]' experiment.episodes=2 seed=3"
    )
    assert [float(row["score"]) for row in rows] == sorted(
        (float(row["score"]) for row in rows), reverse=True
    )
    assert "| `mine` | 62.0 [12.0, 102.0] | 50.0 |" in (root / "docs" / "suite.md").read_text()


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"policy": "fcfs", "options": {}, "belief": "none"}, "policy=p"),
        ({"policy": "p", "options": {}, "belief": "bayes"}, "policy=p"),
        ({"policy": "my.file:P", "options": {"x": 1.5, "on": True}, "belief": "prior"}, None),
    ],
)
def test_commands_name_the_policy_and_its_options(options: dict[str, Any], shown: str) -> None:
    settings = {"experiment": {"episodes": 20}, "seed": 0}
    label = "fcfs" if options["policy"] == "fcfs" else "p"
    said = leaderboard.command(label, options, settings)
    if shown is not None:
        assert said == f"python evaluate.py experiment=suite policy={options['policy']}"
        return
    (override,) = OverridesParser.create().parse_overrides([said.partition("suite ")[2].strip("'")])
    assert override.value() == [
        {"name": "my.file:P", "x": 1.5, "on": True, "belief": "prior", "label": "p"}
    ]
    assert yaml.safe_load(said.partition("=[")[2].rstrip("]'"))["name"] == "my.file:P"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "v0"}, "no run of the suite v1"),
        (
            {"settings": {"experiment": {"episodes": 2, "num_jobs": 5}, "seed": 0}},
            "experiment.num_jobs is not that of the suite",
        ),
    ],
)
def test_a_run_of_something_else_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    board = (root / "leaderboard.csv").read_bytes()
    assert leaderboard.main([str(written(root / "run", **changes)), "--root", str(root)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("leaderboard: ")
    assert message in err
    assert err.count("\n") == 1
    assert (root / "leaderboard.csv").read_bytes() == board


def test_a_run_of_a_part_of_the_suite_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = written(root / "run")
    text = (run / "scores.csv").read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith("large,")]
    (run / "scores.csv").write_text("\n".join(kept), encoding="utf-8")
    assert leaderboard.main([str(run), "--root", str(root)]) == 2
    assert "without the scenario large" in capsys.readouterr().err

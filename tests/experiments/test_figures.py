"""The figures of an experiment, from tables with made-up numbers; and the rows of belief.csv."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmsched_gym.agents.base import make_policy
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.evaluation.belief_quality import BELIEF_COLUMNS, belief_rows
from llmsched_gym.experiments import figures
from llmsched_gym.experiments.figures import Looks, draw_all
from llmsched_gym.plotting import HIGHEST
from llmsched_gym.workload.job import LLMTask
from llmsched_gym.workload.mixes import make_workload

FIGURES = {
    *("jct_by_policy", "jct_cdf", "jct_by_load", "jct_by_engines", "epsilon_and_fraction"),
    *("ablations", "belief_calibration", "belief_error", "overhead"),
}
STUDIES = {
    "main": {"jct_by_policy", "jct_by_load"},
    "engines": {"jct_by_engines"},
    "ablations": {"ablations"},
}
POLICIES = {  # label: mean JCT relative to LLMSched's
    "llmsched": 1.0,
    "fcfs": 1.9,
    "fair": 1.25,
    "sjf": 1.03,
    "srtf": 1.01,
    "gittins": 1.005,
    "las": 1.3,
    "argus": 1.6,
    "carbyne": 1.22,
    "critical_path": 1.5,
    "topological_uncertainty": 1.55,
    "weighted_fair": 1.15,
    "decima": 1.07,
    "random": 1.7,
    "srtf_oracle": 0.97,
    "gittins_oracle": 0.96,
}
ABLATIONS = {
    "llmsched": 1.0,
    "llmsched_no_belief_update": 1.08,
    "llmsched_no_exploration": 1.002,
    "llmsched_no_structural_term": 1.01,
    "llmsched_price_only": 1.03,
}
SECONDS = {"mixed": 58.0, "planning": 28.0, "chain_like": 22.0, "predefined": 205.0, "traces": 27.0}
APPLICATIONS = {
    "code_generation": 20.0,
    "document_merging": 600.0,
    "parallel_function_calling": 9.0,
    "sequence_sorting": 130.0,
    "task_automation": 24.0,
    "web_search": 5.0,
}


def write_tables(folder: Path, episodes: int = 4, jobs: int = 12, workloads: int = 1) -> None:
    """Tables as plausible as made-up ones can be."""
    rng = np.random.default_rng(0)
    names = list(SECONDS)[:workloads]
    results = pd.DataFrame(_results(rng, names, episodes, jobs))
    results.to_csv(folder / "results.csv", index=False)
    main = results[results["study"] == "main"]
    times = [
        {**row, "job": job, "application": "web_search", "jct_s": jct}
        for row in main[["workload", "load", "policy", "episode", "mean_jct_s"]].to_dict("records")
        for job, jct in enumerate(row["mean_jct_s"] * rng.lognormal(-0.8, 1.3, jobs))
    ]
    pd.DataFrame(times).to_csv(folder / "jobs.csv.gz", index=False)
    pd.DataFrame(_belief(rng, episodes, jobs)).to_csv(folder / "belief.csv", index=False)
    overhead = main[["workload", "load", "policy"]].drop_duplicates()
    base = overhead["policy"].map({label: 4 + 3 * n for n, label in enumerate(POLICIES)})
    slow = np.where(overhead["policy"] == "decima", 100, 1)
    overhead = overhead.assign(decision_us=base * slow * rng.uniform(0.8, 1.4, len(base)))
    overhead.to_csv(folder / "overhead.csv", index=False)


def _results(
    rng: np.random.Generator, workloads: list[str], episodes: int, jobs: int
) -> list[dict[str, Any]]:
    cells: list[tuple[str, str, float, int, dict[str, float]]] = [
        ("main", name, load, 4, POLICIES) for name, load in product(workloads, (0.9, 1.3, 2.0))
    ]
    cells += [("engines", name, 1.3, n, POLICIES) for name, n in product(workloads, (2, 4, 8, 16))]
    cells += [("ablations", name, 1.3, 4, ABLATIONS) for name in workloads]
    for study, option, values in (
        ("epsilon", "epsilon", (0.0, 0.1, 0.2, 0.4, 0.8)),
        ("fraction", "explore_fraction", (0.0, 0.1, 0.3, 0.6, 1.0)),
    ):
        labels = {f"llmsched_{option}={value:g}": 1 + 0.04 * value**2 for value in values}
        cells += [(study, name, 1.3, 4, labels) for name in workloads]
    rows = []
    for study, workload, load, engines, factors in cells:
        same = np.random.default_rng((list(SECONDS).index(workload), int(10 * load), engines))
        luck = same.lognormal(0, 0.25, episodes) * SECONDS[workload] * load * 4 / engines
        for label, factor in factors.items():
            for episode in range(episodes):
                mean = luck[episode] * factor ** (load - 0.5) * rng.lognormal(0, 0.005)
                rows.append(
                    {
                        **{"study": study, "workload": workload, "load": load, "engines": engines},
                        **{"cluster": "a100_llama2_7b", "policy": label, "seed": 0},
                        **{"belief": "oracle" if "oracle" in label else "bayes"},
                        **{"episode": episode, "num_jobs": jobs, "mean_jct_s": mean},
                    }
                )
    return rows


def _belief(rng: np.random.Generator, episodes: int, jobs: int) -> list[dict[str, Any]]:
    rows = []
    for episode, job in product(range(episodes), range(jobs)):
        name = list(APPLICATIONS)[int(rng.integers(len(APPLICATIONS)))]
        whole = APPLICATIONS[name] * rng.lognormal(0, 0.4)
        for progress, belief in product((0.0, 0.15, 0.4, 0.65, 0.9), ("bayes", "prior")):
            left = whole * (1 - progress)
            std = (0.35 if belief == "prior" else 0.35 - 0.2 * progress) * left
            predicted = max(0.1, left + rng.normal(0, std))
            rows.append(
                {
                    **{"belief": belief, "workload": "mixed", "episode": episode, "job": job},
                    **{"application": name, "progress": progress, "predicted_s": predicted},
                    **{"std_s": std, "low_s": predicted - 1.8 * std, "actual_s": left},
                    **{"high_s": predicted + 1.8 * std},
                }
            )
    return rows


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    write_tables(folder)
    return folder


def copy(tables: Path, folder: Path, *without: str) -> None:
    for file in tables.glob("*.csv*"):
        if file.name not in without:
            (folder / file.name).write_bytes(file.read_bytes())


@pytest.mark.slow
def test_draws_every_figure_and_the_same_from_the_same_tables(tables: Path, tmp_path: Path) -> None:
    copy(tables, tmp_path)
    drawn = draw_all(tmp_path)
    assert {path.stem for path in drawn} == FIGURES
    first = {path.name: path.read_bytes() for path in drawn}
    assert all(image.startswith(b"\x89PNG") and len(image) > 10_000 for image in first.values())
    assert {path.name: path.read_bytes() for path in draw_all(tmp_path)} == first


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_that_was_not_run_has_no_figure(tables: Path, tmp_path: Path, study: str) -> None:
    results = pd.read_csv(tables / "results.csv")
    results[results["study"] == study].to_csv(tmp_path / "results.csv", index=False)
    assert {path.stem for path in draw_all(tmp_path)} == STUDIES[study]


def test_a_missing_or_empty_table_has_no_figure(tables: Path, tmp_path: Path) -> None:
    assert draw_all(tmp_path) == []
    (tmp_path / "results.csv").touch()
    header, *_ = (tables / "belief.csv").read_text().splitlines()
    (tmp_path / "belief.csv").write_text(header + "\n")
    assert draw_all(tmp_path) == []


@pytest.mark.slow
def test_one_episode_at_one_load_can_be_drawn(tmp_path: Path) -> None:
    write_tables(tmp_path, episodes=1, jobs=6, workloads=5)
    results = pd.read_csv(tmp_path / "results.csv")
    results[results["load"] == 1.3].to_csv(tmp_path / "results.csv", index=False)
    drawn = {path.stem for path in draw_all(tmp_path)}
    assert drawn == FIGURES - {"jct_by_load"}  # one load makes no line
    for path in tmp_path.glob("*.png"):
        height = int.from_bytes(path.read_bytes()[20:24], "big")  # of its header
        assert height <= HIGHEST, "no figure is higher than a screen"


def test_policies_look_different_and_the_same_in_every_study(tables: Path) -> None:
    results = pd.read_csv(tables / "results.csv")
    looks = Looks.of(results)
    pairs = {(one.colour, str(one.dash)) for label, one in looks.looks.items() if label in POLICIES}
    assert len(pairs) == len(POLICIES)
    assert looks.clairvoyant == {"srtf_oracle", "gittins_oracle"}
    assert looks.name("srtf_oracle") == "srtf_oracle (clairvoyant)"
    assert "hatch" in looks.bar("gittins_oracle")
    for label in ABLATIONS:
        assert looks.colour(label) == looks.colour("llmsched")


NAMED_ODDLY = {"mixed": "NA", "sjf": "null", "web_search": "7", "fcfs": "_$x_$", "srtf": "\x1b[1m"}


def test_names_are_names(tables: Path, tmp_path: Path) -> None:
    for path in tables.glob("*.csv*"):
        pd.read_csv(path).replace(NAMED_ODDLY).to_csv(tmp_path / path.name, index=False)
    assert {path.stem for path in draw_all(tmp_path)} == FIGURES
    assert "null" in Looks.of(figures._table(tmp_path / "results.csv")).looks


def test_a_figure_that_fails_costs_no_other(
    tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy(tables, tmp_path)

    def fails(*_arguments: Any) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(figures, "jct_cdf", fails)
    assert {path.stem for path in draw_all(tmp_path)} == FIGURES - {"jct_cdf"}
    assert capsys.readouterr().err == "jct_cdf.png could not be drawn: ValueError: no room\n"


# --- belief_rows ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def envs() -> dict[str, LLMSchedEnv]:
    workload = make_workload("planning")
    return {
        belief: LLMSchedEnv(workload, num_jobs=12, load=2.0, belief=belief)
        for belief in ("bayes", "prior", "oracle")
    }


def test_rows_judge_all_beliefs_at_the_same_moments(envs: dict[str, LLMSchedEnv]) -> None:
    believers = {name: envs[name] for name in ("bayes", "prior")}
    rows = belief_rows(believers, envs["oracle"], make_policy("srtf"), seed=3, episode=7)
    table = pd.DataFrame(rows)
    assert tuple(table.columns) == BELIEF_COLUMNS
    assert set(table["episode"]) == {7}
    assert set(table["workload"]) == {"planning"}
    same = table.drop(columns=["belief", *BELIEF_COLUMNS[6:10]])
    bayes, prior = (
        same[table["belief"] == name].reset_index(drop=True) for name in ("bayes", "prior")
    )
    pd.testing.assert_frame_equal(bayes, prior)
    assert (table["low_s"] <= table["high_s"]).all()
    errors = (table["predicted_s"] - table["actual_s"]).abs().groupby(table["belief"]).mean()
    assert errors["bayes"] < errors["prior"]

    jobs = envs["oracle"].job_table()["application"]
    assert (jobs[table["job"]] == table["application"]).all()
    for _, looks in table[table["belief"] == "bayes"].groupby("job"):
        assert looks["progress"].iloc[0] == 0
        assert looks["progress"].is_monotonic_increasing
        assert looks["progress"].iloc[-1] < 1
    assert set(table["job"]) == set(range(12))


def test_the_oracle_is_right_about_everything(envs: dict[str, LLMSchedEnv]) -> None:
    workload = envs["oracle"].workload
    other = LLMSchedEnv(workload, num_jobs=12, load=2.0, belief="oracle")
    rows = belief_rows({"oracle": other}, envs["oracle"], make_policy("fcfs"), seed=1)
    for row in rows:
        assert row["predicted_s"] == row["low_s"] == row["high_s"] == row["actual_s"]
        assert row["std_s"] == 0


def test_what_remains_of_a_job_alone_is_what_its_tasks_take() -> None:
    workload = make_workload("planning")
    oracle, bayes = (
        LLMSchedEnv(workload, num_jobs=1, belief=belief) for belief in ("oracle", "bayes")
    )
    rows = belief_rows({"bayes": bayes}, oracle, make_policy("fcfs"), seed=5)
    job = workload.bank.job(int(oracle.state.jobs["bank_job"][0]))
    latency, whole = oracle.cluster.latency, 0.0
    for task in (task for stage in job.stages for task in stage.tasks):
        if isinstance(task, LLMTask):
            ticks = latency.demand_ticks(task.prompt_tokens, task.output_tokens)
            whole += float(ticks) / TICKS_PER_SECOND
        else:
            whole += task.duration_s
    assert rows[0]["actual_s"] == pytest.approx(whole, rel=1e-5)
    assert rows[0]["progress"] == 0

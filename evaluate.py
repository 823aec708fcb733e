"""Compare a scheduling policy with baselines on the same episodes.

    python evaluate.py policy=llmsched workload=mixed workload.load=1.3
    python evaluate.py --help

Episode i of every policy has the same jobs at the same times (common random numbers). The
clairvoyant reference, SRTF that knows what is hidden, runs beside them. Results do not depend on
the number of processes; only the wall-clock time of a decision differs from run to run.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import hydra
import numpy as np
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from agents import Policy, find_policy, make_policy
from agents.base import policy_options
from configs import register_groups
from llmsched_gym import metrics
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.latency import Cluster, load_cluster
from llmsched_gym.env.scheduling import InvalidAction, LLMSchedEnv
from llmsched_gym.figures import jct_by_policy, jct_cdf
from llmsched_gym.metrics import Estimate
from llmsched_gym.workload.mixes import Workload, make_workload

REFERENCE = "srtf_oracle"
FLAGS = ("--help", "-h", "--multirun", "-m", "--cfg", "-c", "--config-dir", "-cd", "--resolve")

EPISODE_COLUMNS = (
    *("policy", "workload", "cluster", "load", "seed", "episode", "num_jobs"),
    *("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "makespan_s"),
    *("decisions", "decision_us"),
)
JOB_COLUMNS = ("policy", "episode", "job", "application", "arrival_s", "completion_s", "jct_s")


class InputError(Exception):
    """What the user gave cannot be evaluated: one line that says why."""


@dataclass(frozen=True)
class Run:
    """One policy to evaluate.

    Attributes
    ----------
    label : its name in the results.
    policy, options : for ``make_policy``.
    reference : whether it sees the hidden truth, as the clairvoyant reference does.
    """

    label: str
    policy: str
    options: dict[str, Any]
    reference: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate: the first run is the policy, then its baselines, then the reference."""

    runs: tuple[Run, ...]
    env: LLMSchedEnv
    oracle: LLMSchedEnv
    episodes: int
    seed: int
    processes: int
    settings: dict[str, Any]

    def environment(self, run: Run) -> LLMSchedEnv:
        """The environment of a run."""
        return self.oracle if run.reference else self.env

    def clairvoyant(self, run: Run) -> bool:
        """Whether the run reads what nobody could know."""
        return self.environment(run).belief == "oracle" and find_policy(run.policy).needs_belief


@dataclass(frozen=True)
class Episode:
    """What happened in one episode of one run.

    Attributes
    ----------
    run, number : the label of the run and the number of the episode.
    jobs : the environment's job table, one array a column.
    makespan_s : from the start of the episode to its last completion.
    decisions : how often the policy was asked.
    decision_us : wall-clock time of an answer, microseconds, mean.
    """

    run: str
    number: int
    jobs: dict[str, NDArray[Any]]
    makespan_s: float
    decisions: int
    decision_us: float


@dataclass(frozen=True)
class Summary:
    """One run over all episodes.

    Attributes
    ----------
    mean : of the JCT, seconds.
    percentiles : mean and percentiles of the JCT over the jobs of all episodes, seconds.
    reduction : by what share the evaluated policy's mean JCT is below this run's.
    gap_closed : the share of the way from SJF to the reference.
    """

    run: Run
    clairvoyant: bool
    mean: Estimate
    percentiles: dict[str, float]
    reduction: Estimate | None
    gap_closed: Estimate | None


# --- from the configuration to an evaluation ------------------------------------------------------


def build(settings: dict[str, Any]) -> Evaluation:
    """Make everything that the settings name; raises InputError for what is not right in them."""
    episodes = _whole(settings, "episodes", least=1)
    seed = _whole(settings, "seed", least=0)
    num_jobs = _whole(settings, "num_jobs", least=1)
    processes = settings["processes"] and _whole(settings, "processes", least=1)
    max_stages = settings["max_stages"] and _whole(settings, "max_stages", least=1)
    try:
        runs = _runs(settings)
        load, rate, workload = _workload(**settings["workload"])
        cluster = _cluster(**settings["cluster"])
        belief, belief_settings = _belief(**settings["belief"])
        env, oracle = (
            LLMSchedEnv(
                workload,
                cluster,
                num_jobs=num_jobs,
                load=load,
                arrival_rate=rate,
                belief=name,
                belief_settings=belief_settings,
                max_stages=max_stages,
                strict=True,
            )
            for name in (belief, "oracle")
        )
    except (ValueError, OSError) as error:
        raise InputError(_line(error)) from error
    return Evaluation(runs, env, oracle, episodes, seed, processes or _cores(), settings)


def _whole(settings: dict[str, Any], name: str, least: int) -> int:
    value = settings[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}: {value!r} is not a whole number of at least {least}")
    return value


def _runs(settings: dict[str, Any]) -> tuple[Run, ...]:
    options = dict(settings["policy"])
    name = str(options.pop("name"))
    if name == "custom":
        name = str(options.pop("path"))
    runs = {name: Run(name, name, options)}
    baselines = settings["baselines"] or []
    if not isinstance(baselines, list):
        raise ValueError(f"baselines: {baselines!r} is not a list such as [fcfs,fair]")
    for baseline in map(str, baselines):
        label = baseline
        if baseline == name and options != policy_options(find_policy(name)):
            label = f"{name} (defaults)"
        runs.setdefault(label, Run(label, baseline, {}))
    for run in runs.values():
        if make_policy(run.policy, **run.options).needs_belief:
            _check_belief(run.policy, settings["belief"]["name"])
    return (*runs.values(), Run(REFERENCE, "srtf", {}, reference=True))


def _check_belief(policy: str, belief: str) -> None:
    if belief == "none":
        raise ValueError(
            f"policy {policy}: it needs a belief: belief=bayes, prior or oracle (with belief=none, "
            "policy and baselines must do without, such as baselines=[fcfs,fair])"
        )


def _workload(
    name: str, load: float, arrival_rate: float | None, **options: Any
) -> tuple[float, float | None, Workload]:
    return load, arrival_rate, make_workload(name, **options)


def _cluster(name: str, path: str | None = None, **sizes: int | None) -> Cluster:
    given = {size: value for size, value in sizes.items() if value is not None}
    return load_cluster(Path(path) if path else name, **given)


def _belief(name: str, **options: Any) -> tuple[str, BeliefSettings]:
    return name, BeliefSettings(**options)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- episodes -------------------------------------------------------------------------------------


def episode_seeds(seed: int, number: int) -> tuple[int, int]:
    """The seeds of the environment and of the policy in an episode, the same for every policy."""
    environment, policy = np.random.SeedSequence((seed, number)).generate_state(2, np.uint64)
    return int(environment), int(policy)


def simulate(env: LLMSchedEnv, policy: Policy, seeds: tuple[int, int]) -> tuple[int, float]:
    """Play one episode; returns the number of decisions and the mean microseconds of one."""
    observation, _ = env.reset(seed=seeds[0])
    policy.reset(seeds[1])
    decisions, nanoseconds, over = 0, 0, False
    while not over:
        begin = time.perf_counter_ns()
        action = policy.act(observation)
        nanoseconds += time.perf_counter_ns() - begin
        decisions += 1
        observation, _, terminated, truncated, _ = env.step(int(action))
        over = terminated or truncated
    return decisions, nanoseconds / decisions / 1000


def play(evaluation: Evaluation, run: Run, number: int) -> Episode:
    """Play episode ``number`` of a run."""
    env = evaluation.environment(run)
    policy = make_policy(run.policy, **run.options)
    try:
        decisions, decision_us = simulate(env, policy, episode_seeds(evaluation.seed, number))
    except InvalidAction as error:
        raise InputError(f"policy {run.label}: episode {number}: {error}") from error
    jobs = env.job_table()
    return Episode(
        run.label, number, jobs, float(jobs["completion_s"].max()), decisions, decision_us
    )


_evaluation: Evaluation | None = None  # of this worker process


def _start_worker(evaluation: Evaluation) -> None:
    global _evaluation
    _evaluation = evaluation


def _play_in_worker(run: Run, number: int) -> Episode:
    assert _evaluation is not None
    return play(_evaluation, run, number)


def play_all(evaluation: Evaluation, played: Callable[[], None]) -> list[Episode]:
    """All episodes of all runs, in order; calls ``played`` after each, in whatever order."""
    todo = [(run, number) for run in evaluation.runs for number in range(evaluation.episodes)]
    processes = min(evaluation.processes, len(todo))
    if processes == 1:
        episodes = []
        for run, number in todo:
            episodes.append(play(evaluation, run, number))
            played()
        return episodes
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start_worker, (evaluation,)
    ) as pool:
        futures = [pool.submit(_play_in_worker, run, number) for run, number in todo]
        try:
            for future in as_completed(futures):
                future.result()
                played()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]


# --- results --------------------------------------------------------------------------------------


def summarise(evaluation: Evaluation, episodes: Sequence[Episode]) -> list[Summary]:
    """One summary a run, in the order of the runs."""
    jct = {
        run.label: [episode.jobs["jct_s"] for episode in episodes if episode.run == run.label]
        for run in evaluation.runs
    }
    means = {label: [float(one.mean()) for one in ones] for label, ones in jct.items()}
    policy = evaluation.runs[0].label
    return [
        Summary(
            run,
            evaluation.clairvoyant(run),
            metrics.mean(means[run.label]),
            metrics.percentile_summary(np.concatenate(jct[run.label])),
            None if run.label == policy else metrics.reduction(means[policy], means[run.label]),
            metrics.gap_closed(means[run.label], means["sjf"], means[REFERENCE])
            if "sjf" in means
            else None,
        )
        for run in evaluation.runs
    ]


def table(evaluation: Evaluation, summaries: Sequence[Summary]) -> Table:
    """The summaries to be read."""
    policy = evaluation.runs[0].label
    made = Table(title=_title(evaluation), title_justify="left", title_style="bold")
    made.add_column("policy")
    made.add_column("mean JCT, s", justify="right")
    made.add_column("p95, s", justify="right")
    made.add_column(f"reduction by {policy}", justify="right")
    made.add_column("SJF-to-oracle gap closed", justify="right")
    for one in summaries:
        name = one.run.label + (" (clairvoyant)" if one.clairvoyant else "")
        made.add_row(
            name,
            _shown(one.mean),
            f"{one.percentiles['p95_jct_s']:.1f}",
            _shown(one.reduction, percent=True),
            _shown(one.gap_closed, percent=True),
            style="bold" if one.run.label == policy else "dim" if one.clairvoyant else None,
            end_section=one is summaries[0] or one is summaries[-2],
        )
    return made


def _title(evaluation: Evaluation) -> str:
    settings, cluster = evaluation.settings, evaluation.env.cluster
    return (
        f"{settings['workload']['name']} at load {settings['workload']['load']:g} on {cluster.name}"
        f" ({cluster.engines} engines x {cluster.max_batch} slots, "
        f"{cluster.regular_executors} regular executors)\n"
        f"{evaluation.episodes} episodes of {evaluation.env.num_jobs} jobs, "
        f"belief {evaluation.env.belief}, seed {evaluation.seed}"
    )


def _shown(estimate: Estimate | None, percent: bool = False) -> str:
    if estimate is None:
        return ""
    if estimate.value is None:
        return "n/a"
    scale, unit = (100, " %") if percent else (1, "")
    value = f"{scale * estimate.value:.1f}{unit}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{scale * estimate.low:.1f}, {scale * estimate.high:.1f}]"


def notes(evaluation: Evaluation) -> list[str]:
    """What a reader of the table has to know."""
    interval = (
        "[ ] 95 % bootstrap intervals over episodes; reductions and gaps are paired by episode."
    )
    if evaluation.episodes == 1:
        interval = "One episode: no intervals."
    return [
        interval,
        f"{REFERENCE} knows what is hidden: a reference that nobody can run, and not a bound.",
        *evaluation.env.workload.notes,
        *evaluation.env.notes,
    ]


def write_csv(path: Path, columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """Write rows under a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def episode_rows(evaluation: Evaluation, episodes: Sequence[Episode]) -> Iterator[tuple[Any, ...]]:
    """Rows of EPISODE_COLUMNS."""
    workload = evaluation.settings["workload"]
    setting = (workload["name"], evaluation.env.cluster.name, workload["load"], evaluation.seed)
    for one in episodes:
        jct = one.jobs["jct_s"]
        numbers = (*metrics.percentile_summary(jct).values(), one.makespan_s)
        yield one.run, *setting, one.number, len(jct), *numbers, one.decisions, one.decision_us


def job_rows(episodes: Sequence[Episode]) -> Iterator[tuple[Any, ...]]:
    """Rows of JOB_COLUMNS."""
    for one in episodes:
        columns = (one.jobs[name].tolist() for name in JOB_COLUMNS[3:])
        for job, row in enumerate(zip(*columns, strict=True)):
            yield one.run, one.number, job, *row


def summary_json(evaluation: Evaluation, summaries: Sequence[Summary]) -> dict[str, Any]:
    """The table and the settings that made it."""
    return {
        "settings": {k: v for k, v in evaluation.settings.items() if k != "processes"},
        "policies": {
            one.run.label: {
                "clairvoyant": one.clairvoyant,
                "mean_jct": one.mean._asdict(),
                **one.percentiles,
                "reduction": one.reduction and one.reduction._asdict(),
                "gap_closed": one.gap_closed and one.gap_closed._asdict(),
            }
            for one in summaries
        },
        "notes": notes(evaluation),
    }


@contextmanager
def staged(output_dir: Path) -> Iterator[Path]:
    """A temporary folder whose files move to ``output_dir`` if all goes well, else vanish."""
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        if output_dir.exists() and not output_dir.is_dir():
            raise NotADirectoryError(20, "Not a directory", str(output_dir))
        folder = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}-", dir=output_dir.parent))
    except OSError as error:
        raise InputError(f"output_dir: {_line(error)}") from error
    try:
        yield folder
        output_dir.mkdir(exist_ok=True)
        for file in sorted(folder.iterdir()):
            file.replace(output_dir / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_results(
    folder: Path,
    evaluation: Evaluation,
    episodes: Sequence[Episode],
    summaries: Sequence[Summary],
) -> None:
    """Write all files of a run."""
    write_csv(folder / "episodes.csv", EPISODE_COLUMNS, episode_rows(evaluation, episodes))
    write_csv(folder / "jobs.csv", JOB_COLUMNS, job_rows(episodes))
    summary = json.dumps(summary_json(evaluation, summaries), indent=2)
    (folder / "summary.json").write_text(summary + "\n", encoding="utf-8")
    title = _title(evaluation)
    clairvoyant = [one.run.label for one in summaries if one.clairvoyant]
    jct_cdf(
        folder / "jct_cdf.png",
        {
            run.label: np.concatenate(
                [one.jobs["jct_s"] for one in episodes if one.run == run.label]
            )
            for run in evaluation.runs
        },
        clairvoyant,
        title,
    )
    jct_by_policy(
        folder / "jct_by_policy.png",
        {one.run.label: one.mean for one in summaries},
        {one.run.label: one.percentiles["p95_jct_s"] for one in summaries},
        clairvoyant,
        title,
    )


# --- the command ----------------------------------------------------------------------------------


def evaluate(settings: dict[str, Any]) -> None:
    """Evaluate, print the table and write the files; raises InputError."""
    progress = Console(stderr=True)
    with progress.status("reading the workload and fitting the belief"):
        evaluation = build(settings)
    output_dir = Path(settings["output_dir"])
    with staged(output_dir) as folder:
        columns = (
            *Progress.get_default_columns()[:-1],
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=progress, disable=not progress.is_terminal) as bar:
            task = bar.add_task("episodes", total=len(evaluation.runs) * evaluation.episodes)
            episodes = play_all(evaluation, lambda: bar.advance(task))
        summaries = summarise(evaluation, episodes)
        write_results(folder, evaluation, episodes, summaries)
    output = Console(highlight=False)
    if not output.is_terminal:
        output.width = 110
    output.print(table(evaluation, summaries))
    for note in notes(evaluation):
        output.print(f"- {note}", markup=False)
    output.print(f"Files: {output_dir}", markup=False, soft_wrap=True)


@hydra.main(config_path="pkg://configs", config_name="evaluate", version_base="1.3")
def _run(config: DictConfig) -> None:
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(settings, dict)
    try:
        evaluate({str(key): value for key, value in settings.items()})
    except InputError as error:
        if _full_errors:
            traceback.print_exc()
        _fail(str(error))
    except Exception:  # a bug: Hydra would cut the traceback short
        traceback.print_exc()
        sys.exit(1)


_full_errors = False


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments, those of the process by default.

    Exits with code 2 and one line on stderr for bad input.
    """
    global _full_errors
    arguments = sys.argv[1:] if argv is None else list(argv)
    for argument in arguments:
        if argument.startswith("-") and argument not in FLAGS:
            _fail(f"unknown flag {argument!r}, choose from {', '.join(FLAGS)}, or give name=value")
    _full_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    sys.argv = [sys.argv[0], *arguments]
    register_groups()
    try:
        _run()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if _full_errors:
            traceback.print_exc()
        _fail(_hydra_line(error))


def _fail(message: str) -> NoReturn:
    print(f"evaluate.py: {message}", file=sys.stderr)
    sys.exit(2)


def _line(error: Exception) -> str:
    """The message of an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _hydra_line(error: Exception) -> str:
    """Hydra's and OmegaConf's long messages in one line, with the valid choices."""
    cause = error.__cause__ or error
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}: unknown {name!r}, choose from {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is not of the form name=value: {error.message.splitlines()[0]}"
    if isinstance(cause, OmegaConfBaseException):
        if isinstance(cause, ConfigKeyError | ConfigAttributeError):
            valid = [key for key in cause.parent_node or () if key != "hydra"]
            return f"unknown option {cause.full_key!r}; valid here: {', '.join(valid) or 'none'}"
        return f"{cause.full_key}: {str(cause.msg).splitlines()[0]}"
    return _line(error)


if __name__ == "__main__":
    main()

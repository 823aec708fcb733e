"""What to evaluate, and what came of it.

Episode i of every policy has the same jobs at the same times (common random numbers). Two
references, SRTF that know what is hidden, run beside them, and the one with the lower mean is the
clairvoyant reference. Results do not depend on the number of processes; only the wall-clock time of
a decision differs from run to run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from rich.table import Table

from llmsched_gym.agents.base import Policy, find_policy, make_policy
from llmsched_gym.cluster.alone import EmptyCluster
from llmsched_gym.cluster.bound import LowerBound
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import printable
from llmsched_gym.evaluation.episodes import Episode, play
from llmsched_gym.evaluation.kept import LOGS, keep
from llmsched_gym.evaluation.results import (
    EPISODE_COLUMNS,
    JOB_COLUMNS,
    OF_REFERENCES,
    REFERENCES,
    TASK_COLUMNS,
    Setting,
    Summary,
    best_reference,
    by_policy,
    episode_means,
    episode_rows,
    job_rows,
    summarise,
    summary_row,
    task_rows,
    write_csv,
    write_results,
)
from llmsched_gym.evaluation.tables import WIDTH, application_tables, results_table
from llmsched_gym.evaluation.verdict import gap_is_sure, verdict
from llmsched_gym.processes import map_processes
from llmsched_gym.workload.arrivals import Burst

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Run:
    """One policy to evaluate.

    Attributes
    ----------
    label : its name in the results.
    policy : the name of a policy or ``module:Class``, or a policy to copy for each episode.
    options : for ``make_policy``.
    reference : whether it sees the hidden truth, as the clairvoyant references do.
    """

    label: str
    policy: str | Policy
    options: dict[str, Any] = field(default_factory=dict)
    reference: bool = False

    def make(self) -> Policy:
        """A policy that has not decided anything yet."""
        if isinstance(self.policy, Policy):
            return copy.deepcopy(self.policy)
        return make_policy(self.policy, **self.options)

    @property
    def needs_belief(self) -> bool | None:
        """Whether the policy reads expected demands; None: nobody knows."""
        policy = self.policy
        return (policy if isinstance(policy, Policy) else find_policy(policy)).needs_belief


CLAIRVOYANTS = tuple(
    Run(label, "srtf", options, reference=True) for label, options in OF_REFERENCES.items()
)


def clairvoyants(on_servers: bool) -> tuple[Run, ...]:
    """The references; on servers, where each takes its time, the first of them."""
    return CLAIRVOYANTS[:1] if on_servers else CLAIRVOYANTS


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate: the first run is the policy that the others are compared with."""

    simulated: ClassVar[bool] = True

    runs: tuple[Run, ...]
    env: LLMSchedEnv
    oracle: LLMSchedEnv
    episodes: int
    seed: int
    processes: int
    load: float | None

    def environment(self, run: Run) -> LLMSchedEnv:
        """The environment of a run."""
        return self.oracle if run.reference else self.env

    def clairvoyant(self) -> list[str]:
        """Labels of the runs that read, or may have read, what nobody could know."""
        return [
            run.label
            for run in self.runs
            if self.environment(run).belief == "oracle" and run.needs_belief is not False
        ]

    def setting(self) -> Setting:
        """Where the policies are compared."""
        env, cluster = self.env, self.env.cluster
        demand = f"at {env.rate:g} jobs/s" if self.load is None else f"at load {self.load:g}"
        if not env.workload.has_rate:
            burst = isinstance(env.workload.arrivals, Burst)
            demand = "all jobs at once" if burst else "as recorded"
        title = printable(
            f"{env.workload.name} {demand} on {cluster.name} "
            f"({cluster.engines} engines x {cluster.max_batch} slots{_traits(cluster)}, "
            f"{cluster.regular_executors} regular executors)\n"
            f"episodes: {self.episodes}, jobs each: {env.num_jobs}, belief {env.belief}, "
            f"seed {self.seed}"
        )
        load = self.load if env.workload.has_rate else None
        return Setting(env.workload.name, cluster.name, load, self.seed, title)

    def notes(self) -> tuple[str, ...]:
        """What a reader of the results has to know."""
        intervals = "Intervals: 95 % bootstrap over episodes, paired where policies are compared."
        return (
            intervals if self.episodes > 1 else "One episode: no intervals.",
            *self._bottleneck(),
            *self.env.workload.notes,
            *self.env.notes,
        )

    def _bottleneck(self) -> list[str]:
        """A word on tools if they are offered more work than LLM slots are."""
        env, executors = self.env, self.env.cluster.regular_executors
        busy = env.rate * float(env.bank.duration_s.sum()) / len(env.bank)
        if not env.workload.has_rate or busy / executors <= max(1.0, self.load or 0.0):
            return []
        return [
            f"The {executors} regular executors are offered {busy / executors:.1f} times what they "
            "can serve: jobs wait for tools more than for LLM slots "
            f"(cluster.regular_executors={math.ceil(busy)} would serve them)."
        ]

    def play(self, played: Callable[[], None] = lambda: None) -> Comparison:
        """Play all episodes of all runs; calls ``played`` after each.

        Raises
        ------
        InputError
            for an illegal action, and for jobs that take longer than the simulator can count.
        PolicyError
            for what a policy raises.
        WorkerDied
            if a process is killed.
        """
        todo = [(run, number) for run in self.runs for number in range(self.episodes)]
        episodes = map_processes(_play, self, todo, self.processes, lambda _index: played())
        return self.compared(episodes)

    def compared(self, episodes: Sequence[Episode], *notes: str) -> Comparison:
        """What there is to say of episodes that were played, as many of each run, run by run."""
        played = tuple(self._with_what_is_least(episodes))
        first, *others = self.notes()
        told = (first, *_references(played), *others, *notes)
        return Comparison(played, self.setting(), told, tuple(self.clairvoyant()))

    def _with_what_is_least(self, episodes: Sequence[Episode]) -> Iterator[Episode]:
        """The episodes with ``bound_s``, their jobs with ``alone_s``.

        That is how long each takes on an empty cluster.
        """
        empty = EmptyCluster(self.env.bank, self.env.cluster)
        lower = LowerBound(self.env.bank, self.env.cluster) if self.simulated else None
        bounds: dict[int, float | None] = {}
        for one in episodes:
            if "bank_job" not in one.jobs:  # an older version kept it
                yield one
                continue
            drawn = one.jobs["bank_job"]
            if one.number not in bounds:  # it is the same for all policies
                arrival_s = one.jobs["arrival_s"]
                bounds[one.number] = None if lower is None else lower.mean_jct_s(drawn, arrival_s)
            alone = {"alone_s": empty.alone_s(drawn)}
            yield replace(one, jobs=one.jobs | alone, bound_s=bounds[one.number])


def _references(episodes: Sequence[Episode]) -> list[str]:
    """A word on the clairvoyant reference, if there is one."""
    means = {policy: episode_means(played) for policy, played in by_policy(episodes).items()}
    best = best_reference(means)
    if best is None:
        return []
    several = all(label in means for label in REFERENCES)
    what = "the lower of two SRTF that know" if several else "SRTF that knows"
    return [f"Clairvoyant: {best}, {what} what is hidden; a reference, and not a bound."]


def _traits(cluster: Cluster) -> str:
    """What is said of engines that are not those of the presets."""
    latency = cluster.latency
    mixed = f", mixed prefill of {latency.token_budget} tokens" if latency.mixed else ""
    return mixed + (", late joins" if latency.late else "")


def _play(evaluation: Evaluation, todo: tuple[Run, int]) -> Episode:
    run, number = todo
    return play(evaluation.environment(run), run.make(), run.label, evaluation.seed, number)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What several policies did on the same episodes.

    Attributes
    ----------
    played : the episodes, by policy; the policy of the first is compared with the others.
    setting : where they were played.
    notes : what a reader of the results has to know.
    clairvoyant : labels of the policies that knew what was hidden.
    """

    played: tuple[Episode, ...]
    setting: Setting
    notes: tuple[str, ...]
    clairvoyant: tuple[str, ...]

    @cached_property
    def summaries(self) -> list[Summary]:
        """One a policy, with intervals."""
        return summarise(self.played, self.clairvoyant)

    @property
    def summary(self) -> pd.DataFrame:
        """One row a policy: mean, percentiles, slowdown, bound, how much better the first is, gap.

        ``mean_jct_s``, ``reduction`` and ``gap_closed`` have ``_low`` and ``_high`` beside them,
        the ends of 95 % intervals; NaN is what the episodes cannot say.
        """
        import pandas as pd  # which takes a while

        return pd.DataFrame([summary_row(one) for one in self.summaries])

    @property
    def episodes(self) -> pd.DataFrame:
        """One row an episode of a policy, with the columns of ``episodes.csv``."""
        import pandas as pd  # which takes a while

        return pd.DataFrame(episode_rows(self.played, self.setting), columns=EPISODE_COLUMNS)

    @property
    def jobs(self) -> pd.DataFrame:
        """One row a job of an episode of a policy, with the columns of ``jobs.csv``."""
        import pandas as pd  # which takes a while

        return pd.DataFrame(job_rows(self.played), columns=JOB_COLUMNS)

    @property
    def tasks(self) -> pd.DataFrame:
        """One row a task of an episode of a policy, with the columns of ``tasks.csv``.

        Only of episodes on servers; without one there are no rows.
        """
        import pandas as pd  # which takes a while

        return pd.DataFrame(task_rows(self.played, np.nan), columns=TASK_COLUMNS)

    def jct_s(self) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """The completion times of all jobs by policy, seconds."""
        return {
            one.policy: np.concatenate(
                [episode.jobs["jct_s"] for episode in self.played if episode.policy == one.policy]
            )
            for one in self.summaries
        }

    def table(self) -> Table:
        """The summary to be read, in a terminal or a notebook.

        The gap is in it where SJF and the clairvoyant reference differ for sure, "x bound" where
        the lower bound is known.
        """
        return results_table(self.summaries, self.setting.title, gap_is_sure(self.played))

    def application_tables(self, width: int = WIDTH) -> list[Table]:
        """Mean JCTs by application to be read, side by side as many policies as ``width`` holds.

        Without several applications there is none.
        """
        return application_tables(self.summaries, width)

    @cached_property
    def verdict(self) -> str:
        """Who has the lowest mean and the lowest p99, and who equals them; empty for one policy."""
        return verdict(self.played)

    def jct_cdf(self) -> Figure:
        """The share of jobs completed within a time, one curve a policy."""
        from llmsched_gym.evaluation.figures import jct_cdf  # matplotlib takes a while

        return jct_cdf(self.jct_s(), self.clairvoyant, self.setting.title)

    def jct_by_policy(self) -> Figure:
        """Mean job completion times with their intervals, and 95th percentiles."""
        from llmsched_gym.evaluation.figures import jct_by_policy

        means = {one.policy: one.mean for one in self.summaries}
        p95 = {one.policy: one.percentiles["p95_jct_s"] for one in self.summaries}
        return jct_by_policy(means, p95, self.clairvoyant, self.setting.title)

    @property
    def mean_jct_s(self) -> float:
        """The mean JCT of the first policy in seconds, over all episodes."""
        return float(self.summaries[0].mean.value or 0.0)

    def write(self, folder: Path, **more: Any) -> None:
        """Write the files of an evaluation, with ``more`` in ``summary.json``.

        Tables come first; a figure that cannot be drawn does not cost them. Of episodes on servers
        there is a table of tasks too, and the log of each in the folder ``logs`` unless it is in a
        file already.
        """
        from llmsched_gym.plotting import save

        about = {"verdict": self.verdict, "notes": self.notes, **more}
        write_results(folder, self.played, self.summaries, self.setting, **about)
        if any(episode.tasks is not None for episode in self.played):
            write_csv(folder / "tasks.csv", TASK_COLUMNS, task_rows(self.played, ""))
        for episode in self.played:
            if episode.log is not None:
                keep(folder / LOGS, episode)
        figures = {"jct_cdf": self.jct_cdf, "jct_by_policy": self.jct_by_policy}
        for name, draw in figures.items():
            save(draw, folder / f"{name}.png")


def check_runs(runs: Sequence[Run], belief: str) -> tuple[Run, ...]:
    """The runs, if their policies can be made, have labels of their own and see what they need.

    Raises
    ------
    ValueError
        if not.
    """
    for number, run in enumerate(runs):
        if run.label in (other.label for other in runs[:number]):
            raise ValueError(
                f"policies: {run.label!r} is there twice, give each a label of its own"
            )
        if run.make().needs_belief and belief == "none" and not run.reference:
            raise ValueError(
                f"policy {run.label}: needs belief=bayes, prior or oracle; with belief=none take "
                "policies that do without, such as fair and fcfs"
            )
    return tuple(runs)

"""LLMSched: explore what tells most about the future, else shortest remaining time first.

Zhu et al., "LLMSched: Uncertainty-Aware Workload Scheduling for Compound LLM Applications",
ICDCS 2025, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.agents.base import (
    Observation,
    PriorityPolicy,
    Scores,
    of_job,
    register,
    rows_in_use,
    runnable,
    stage_feature,
)
from llmsched_gym.agents.demand import check_counted, remaining_demand
from llmsched_gym.env.features import JOB


@dataclass(frozen=True)
class Explanation:
    """A decision of :class:`LLMSched`, and why; printed, it is a few lines of text.

    Stages and jobs are rows of the observation, jobs in order of arrival. Where nothing can run,
    the action is to wait, and there is no stage.

    Attributes
    ----------
    action : what ``act`` chooses.
    draw, epsilon : it was to explore if the number drawn is below epsilon; None where nothing can
        run, for then none is drawn.
    explored : whether it did: there was something to explore as well.
    stage, job : what runs, None if it waits.
    demand_s, interval_s : what the job still needs, E[rem] and its interval, seconds.
    reduction : R of the stage, bit s.
    price_s : what R had to exceed; bit s. 0 where exploring has no price, as published.
    sets : the jobs in sets of intervals that overlap, by their lower ends.
    candidates : the stages that might have been explored.
    """

    action: int
    draw: float | None
    epsilon: float
    explored: bool
    stage: int | None
    job: int | None
    demand_s: float
    interval_s: tuple[float, float]
    reduction: float
    price_s: float
    sets: tuple[tuple[int, ...], ...]
    candidates: tuple[int, ...]

    def __str__(self) -> str:
        """What was decided, and why."""
        if self.stage is None:
            return "waits: no stage can run"
        low, high = self.interval_s
        lines = [
            f"runs stage {self.stage} of job {self.job}, which still needs "
            f"{self.demand_s:.1f} s, {low:.1f} to {high:.1f} s"
        ]
        met = "below" if self._wants else "not below"
        lines.append(f"drew {self.draw:.3f}, {met} epsilon = {self.epsilon:g}: {self._why}")
        if self.explored:
            number = next(k for k, one in enumerate(self.sets) if self.job in one)
            jobs = ", ".join(map(str, self.sets[number]))
            worth = f", worth its price of {self.price_s:.3g} bit s" if self.price_s else ""
            lines += [
                f"set {number + 1} of {len(self.sets)} is the first with something to explore: "
                f"job{'s' if len(self.sets[number]) > 1 else ''} {jobs}",
                f"R = {self.reduction:.3g} bit s is the largest there{worth}",
            ]
        return "\n".join(lines)

    @property
    def _wants(self) -> bool:
        return self.draw is not None and self.draw < self.epsilon

    @property
    def _why(self) -> str:
        if self.explored:
            return "explores"
        why = "exploits, the job that needs least goes first"
        return f"nothing to explore, {why}" if self._wants else why


@register("llmsched")
class LLMSched(PriorityPolicy):
    """Algorithm 1 of the paper: epsilon-greedy between exploring and exploiting.

    At each decision, with probability ``epsilon``, *explore*: group the jobs into maximal sets
    whose intervals of remaining demand overlap transitively (between sets the order is certain,
    within one it is not), order the sets by their lower ends, and in the first set that has one,
    run the stage with the largest uncertainty reduction R. If there is none, and otherwise,
    *exploit*: run a stage of the job with the least expected remaining demand (SRTF).

    Parameters
    ----------
    epsilon : probability of exploring, from 0 (never: plain SRTF) to 1 (always). The default 0.2
        is ours, the paper's value is not public.
    explore_fraction : the share r of a stage's tasks, at least one task, that exploration may
        start. A few tasks tell how long the others take; the rest are left to exploitation. Again
        our default.
    demand : what counts when exploiting: "all" (default, as published), E[rem]; "llm": engine work
        alone; or "own": the work on what the stage asks for
        (:func:`llmsched_gym.agents.demand.remaining_demand`).

    Notes
    -----
    The ablations: ``epsilon=0`` is "without exploration"; ``belief=prior`` of the environment is
    "without belief update"; ``belief.structural=false`` is R without the term for what a stage
    reveals. What we would explore instead is ``llmsched_priced``
    (:class:`~llmsched_gym.agents.llmsched_priced.LLMSchedPriced`).

    Choices that are ours, where the paper is silent: intervals are closed, so that jobs whose
    intervals touch are in one set; all jobs in the system take part in the grouping, those that
    have nothing to run as well; a stage counts only if one of its tasks can be started now; equal
    R goes to the job that arrived first; one number is drawn at every decision.
    """

    needs_belief = True
    reads = ("uncertainty_reduction",)

    price = 0.0  # bit; R > 0, as published

    def __init__(
        self, epsilon: float = 0.2, explore_fraction: float = 0.3, demand: str = "all"
    ) -> None:
        self.epsilon = check_number("epsilon", epsilon, 1)
        self.explore_fraction = check_number("explore_fraction", explore_fraction, 1)
        self.demand = check_counted(demand)

    def priority(self, observation: Observation) -> Scores:
        """R where there is something to explore now, minus E[rem] otherwise."""
        explore = self.rng.random(observation["stage_mask"].shape[:-1]) < self.epsilon
        exploit = -remaining_demand(observation, self.demand)
        if not explore.any():
            return exploit
        reduction = self.exploration(observation)
        explore = explore & (reduction > 0).any(axis=-1)
        return np.where(explore[..., None], reduction, exploit)

    def explain(self, observation: Observation) -> Explanation:
        """What :meth:`act` would choose next, and why; nothing changes, no random number is spent.

        Parameters
        ----------
        observation
            Of one environment.
        """
        before = self.rng.bit_generator.state
        action = int(self.act(observation))  # type: ignore[arg-type]
        self.rng.bit_generator.state = before
        draw = float(self.rng.random())
        self.rng.bit_generator.state = before
        seen = rows_in_use(observation)
        jobs = seen["jobs"]
        sets = _sets(seen)[: int((seen["job_mask"] != 0).sum())]
        runs = action < len(observation["stage_mask"])
        job = int(seen["stage_job"][action]) if runs else None
        values = jobs[job] if runs else np.zeros(len(JOB))
        of_stage = {
            name: float(stage_feature(seen, name)[action]) if runs else 0.0
            for name in ("uncertainty_reduction", "demand_s")
        }
        explored = runs and draw < self.epsilon and bool((self.exploration(seen) > 0).any())
        return Explanation(
            action=action,
            draw=draw if runs else None,
            epsilon=self.epsilon,
            explored=explored,
            stage=action if runs else None,
            job=job,
            demand_s=float(values[JOB["demand_s"]]),
            interval_s=(float(values[JOB["demand_low_s"]]), float(values[JOB["demand_high_s"]])),
            reduction=of_stage["uncertainty_reduction"],
            price_s=self.price * of_stage["demand_s"],
            sets=tuple(
                tuple(np.flatnonzero(sets == one).tolist())
                for one in range(int(sets.max(initial=-1)) + 1)
            ),
            candidates=tuple(np.flatnonzero(self.candidates(seen)).tolist()),
        )

    def exploration(self, observation: Observation) -> Scores:
        """R of the stages that may be explored now, 0 for the others: [..., stage rows]."""
        reduction = stage_feature(observation, "uncertainty_reduction")
        candidate = self.candidates(observation)
        if not candidate.any():
            return np.zeros_like(reduction)
        sets = _sets(observation)
        stage_set = np.where(candidate, of_job(observation, sets), sets.shape[-1])
        first = stage_set.min(axis=-1, keepdims=True)
        return np.where(candidate & (stage_set == first), reduction, 0)

    def candidates(self, observation: Observation) -> NDArray[np.bool_]:
        """The stages that may be explored, in whichever set: bool [..., stage rows]."""
        telling = stage_feature(observation, "uncertainty_reduction") > 0
        return telling & runnable(observation) & self._below_fraction(observation)

    def _below_fraction(self, observation: Observation) -> NDArray[np.bool_]:
        """Whether fewer than a share r of the stage's tasks, at least one, have been started."""
        started = stage_feature(observation, "running_tasks") + stage_feature(
            observation, "completed_tasks"
        )
        total = started + stage_feature(observation, "waiting_tasks")
        # The small number keeps r = 0.3 of 10 tasks at 3, not at 3.0000001.
        return (started < 1) | (started < self.explore_fraction * total - 1e-4)


def _sets(observation: Observation) -> NDArray[np.intp]:
    """The set of each job's interval: [..., job rows]."""
    jobs = observation["jobs"]
    return overlapping_sets(
        jobs[..., JOB["demand_low_s"]],
        jobs[..., JOB["demand_high_s"]],
        observation["job_mask"] != 0,
    )


def overlapping_sets(
    low: NDArray[np.floating], high: NDArray[np.floating], present: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Group closed intervals that overlap, directly or through others.

    Parameters
    ----------
    low, high : [..., n]
        The ends of the intervals.
    present : [..., n]
        Whether there is such an interval.

    Returns
    -------
    For each interval the number of its set, [..., n]: 0 for the set with the least lower end, and
    so on upwards. Absent intervals come after all sets, each in a set of its own.
    """
    low = np.where(present, low, np.inf)
    order = low.argsort(axis=-1)
    sorted_low = np.take_along_axis(low, order, axis=-1)
    reach = np.maximum.accumulate(np.take_along_axis(high, order, axis=-1), axis=-1)
    begins = np.zeros(low.shape, dtype=np.intp)
    begins[..., 1:] = sorted_low[..., 1:] > reach[..., :-1]
    sets = np.empty_like(begins)
    np.put_along_axis(sets, order, begins.cumsum(axis=-1), axis=-1)
    return sets


def check_number(name: str, value: float, most: float) -> float:
    """The value of an option, if it is a number from 0 to ``most``; else a ValueError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= most:
        limit = f"from 0 to {most:g}" if np.isfinite(most) else "of at least 0"
        raise ValueError(f"{name}: {value!r} is not a number {limit}")
    return number

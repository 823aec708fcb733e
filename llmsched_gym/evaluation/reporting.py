"""A report on a comparison: one file for a browser, which needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmsched_gym.agents.base import Policy
from llmsched_gym.checks import is_positive
from llmsched_gym.cluster.timeline import Timeline
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.evaluation.animation import timelines
from llmsched_gym.evaluation.comparison import Comparison
from llmsched_gym.files import replacing
from llmsched_gym.metrics import Estimate

if TYPE_CHECKING:
    from llmsched_gym.evaluation.report_page import FirstMinutes
    from llmsched_gym.rendering.history import BeliefHistory

BELIEF_S = 600.0  # how long the first policy plays to find a job whose belief is worth a look


def report(
    comparison: Comparison,
    path: str | os.PathLike[str],
    policies: Mapping[str, Policy] | None = None,
    env: LLMSchedEnv | None = None,
    *,
    seconds: float = 120.0,
) -> Path:
    """Write a report: one HTML file of about 5 MB with everything in it, no network needed.

    It has a table of the policies to be sorted, mean JCT against its 95th and 99th percentile,
    distributions and means per application. With ``policies`` and ``env`` it has a Gantt chart of
    the first minutes of episode 0, too, and what the first policy's environment believed of a job.

    Parameters
    ----------
    comparison
        What to report on.
    path
        Of the file, which is written whole or not at all.
    policies
        To draw in the Gantt chart, by their names, best one and a baseline. They are new or have no
        memory.
    env
        Who plays them, as in the comparison: a simulated cluster. It stays as it is.
    seconds
        Of simulated time in the Gantt chart.

    Returns
    -------
    The path.

    Raises
    ------
    ImportError
        without the extra ``report``.
    ValueError
        if there are policies without an environment or the reverse, or ``seconds`` is no positive
        time.
    OSError
        if the file cannot be written.
    """
    from llmsched_gym.evaluation.report_page import page_of  # which needs the extra `report`

    if (policies is None) != (env is None):
        raise ValueError("policies and env belong together: give both, or neither")
    minutes = None
    if policies is not None and env is not None:
        minutes = _first_minutes(policies, env, seconds, comparison.setting.seed)
    target, page = Path(path), page_of(comparison, minutes)
    with replacing(target) as part:
        part.write_text(page, encoding="utf-8")
    return target


def report_places(
    title: str,
    comparisons: Sequence[Comparison],
    path: str | os.PathLike[str],
    notes: Sequence[str] = (),
    scores: Mapping[str, Sequence[Estimate]] | None = None,
) -> Path:
    """Write a report on the same policies in several places: one HTML file, as :func:`report`.

    Parameters
    ----------
    title
        Of the page; what follows its first line is shown smaller.
    comparisons
        One a place, whose name is the first line of the title of its setting; at least one.
    path
        Of the file, which is written whole or not at all.
    notes
        What a reader of the results has to know.
    scores
        By policy, its score in each place and then their mean, where places have scores: 0 as good
        as SJF, 1 as good as the clairvoyant reference.

    Raises
    ------
    ImportError
        without the extra ``report``.
    OSError
        if the file cannot be written.
    """
    from llmsched_gym.evaluation.report_page import page_of_places

    target, page = Path(path), page_of_places(title, comparisons, notes, scores or {})
    with replacing(target) as part:
        part.write_text(page, encoding="utf-8")
    return target


def _first_minutes(
    policies: Mapping[str, Policy], env: LLMSchedEnv, seconds: float, seed: int
) -> FirstMinutes:
    """Play them; the first plays longer, so that some of its jobs are done and can be looked at."""
    from llmsched_gym.evaluation.report_page import FirstMinutes

    if not policies:
        raise ValueError("policies: at least one is needed")
    if not is_positive(seconds):
        raise ValueError(f"seconds: {seconds!r} is not a positive time in seconds")
    twin = deepcopy(env)
    if twin.scenario.networks is not None:
        twin.record_beliefs()
    first, *others = policies
    longer = max(seconds, BELIEF_S)
    whole = timelines({first: policies[first]}, twin, longer, seed=seed)[first]
    belief = _least_certain(twin, whole)
    shown = {first: whole.at(seconds)}
    if others:
        rest = {label: policies[label] for label in others}
        shown |= timelines(rest, twin, seconds, seed=seed)
    return FirstMinutes(shown, tuple(env.bank.applications), belief)


def _least_certain(env: LLMSchedEnv, tasks: Timeline) -> BeliefHistory | None:
    """Of the jobs that are done, the one whose demand had the widest interval at first."""
    if env.scenario.networks is None:
        return None
    done = np.flatnonzero(~np.isnan(tasks.completion_s)).tolist()
    found = [env.beliefs_of(job) for job in done]
    return max(found, key=lambda one: one.high_s[0] - one.low_s[0], default=None)

"""Fit one Bayesian network per application on past jobs, with pgmpy; keep it on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.belief import profile as profile_module
from llmsched_gym.belief import structure as structure_module
from llmsched_gym.belief.profile import (
    BeliefProfile,
    BeliefSettings,
    FloatArray,
    IntArray,
    Network,
    TaskDemand,
)
from llmsched_gym.belief.structure import (
    NO_PROMPT,
    PastStates,
    choose_bins,
    learn,
    needs_pgmpy,
)
from llmsched_gym.belief.work import task_seconds
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.errors import one_line
from llmsched_gym.notes import note
from llmsched_gym.workload import template as template_module
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Kind
from llmsched_gym.workload.template import Template, canonical_stages, fit_templates

SHIPPED = Path(__file__).with_name("fitted")  # beliefs that come with the package
LINKED = 128  # stages of an application that may have edges: of more names the most frequent
SEEN_JOBS = 5  # in which these must be, if there are more names
MAX_ROWS = 1 << 13  # states of all separators of a network
ALL_ROWS = 1 << 17  # of all networks together, as far as edges make them
UNSEEN_JOBS = 0.01  # weight of a state that is possible and was never seen
IMPOSSIBLE_JOBS = 1e-4  # weight of what the template rules out: a round after the last one

_log = logging.getLogger(__name__)


def fit_profile(
    past: JobBank, latency: LatencyProfile, settings: BeliefSettings | None = None
) -> BeliefProfile:
    """Fit templates and networks on past jobs.

    Parameters
    ----------
    past : the past jobs, never the evaluated ones.
    latency : turns tokens into seconds at batch size 1.
    settings : default ``BeliefSettings()``.

    Notes
    -----
    Time grows with the square of the stages that may have edges, so an application with more than
    ``LINKED`` stage names has edges among the most frequent of them alone. Each application is told
    to the logger of this module as it begins, at level INFO.
    """
    settings = settings or BeliefSettings()
    templates = fit_templates(past)
    task_s = task_seconds(past, latency)
    table = _StageTable.read(past, templates, task_s)
    networks: dict[str, Network] = {}
    notes: list[str] = []
    for number, name in enumerate(past.applications, start=1):
        _log.info("application %d of %d: %s", number, len(past.applications), name)
        demand, tasks, prompts = table.of(name)
        linked, why = _linked(tasks, settings)
        most = min(MAX_ROWS, ALL_ROWS // len(past.applications))
        networks[name], left_out = _fit_network(
            templates[name], demand, tasks, prompts, settings, linked, most
        )
        notes += [f"{name}: {note}" for note in (why, left_out) if note]
    return BeliefProfile(
        settings=settings,
        templates=templates,
        networks=networks,
        tasks=_task_demands(past, task_s, settings),
        notes=tuple(notes),
    )


def _linked(tasks: IntArray, settings: BeliefSettings) -> tuple[NDArray[np.bool_], str]:
    """Which stages may have edges: bool [C]; and a note why others have plain priors."""
    jobs, stages = tasks.shape
    if jobs < settings.min_jobs:
        why = f"{jobs} past jobs, below min_jobs={settings.min_jobs}: a plain prior without edges"
        return np.zeros(stages, bool), why
    if stages <= LINKED:
        return np.ones(stages, bool), ""
    seen = np.count_nonzero(tasks, axis=0)
    linked = np.zeros(stages, bool)
    linked[np.argsort(-seen, kind="stable")[:LINKED]] = True
    linked &= seen >= SEEN_JOBS
    rare = stages - np.count_nonzero(linked)
    return linked, f"{stages} stage names: the {rare} rarest have plain priors without edges"


@dataclass(frozen=True)
class _StageTable:
    """Demand, number of tasks and prompts of every canonical stage of every past job."""

    rows: dict[str, tuple[FloatArray, IntArray, FloatArray]]  # by application

    @classmethod
    def read(cls, past: JobBank, templates: dict[str, Template], task_s: FloatArray) -> _StageTable:
        canonical = canonical_stages(past, templates)
        stage_s = np.add.reduceat(task_s, past.stage_tasks[:-1])
        num_tasks = np.diff(past.stage_tasks)
        prompt = np.add.reduceat(past.prompt_tokens, past.stage_tasks[:-1]) / num_tasks
        stage_job = np.repeat(np.arange(len(past)), np.diff(past.job_stages))
        rows: dict[str, tuple[FloatArray, IntArray, FloatArray]] = {}
        base = 0
        for number, name in enumerate(past.applications):
            template = templates[name]
            kinds = np.array(template.kinds, np.int64)
            jobs = np.flatnonzero(past.job_application == number)
            mine = np.flatnonzero(past.job_application[stage_job] == number)
            mine = mine[past.stage_kind[mine] == kinds[canonical[mine] - base]]
            where = np.searchsorted(jobs, stage_job[mine]), canonical[mine] - base
            demand = np.zeros((len(jobs), len(kinds)))
            tasks = np.zeros((len(jobs), len(kinds)), np.int64)
            prompts = np.zeros((len(jobs), len(kinds)))
            demand[where], tasks[where] = stage_s[mine], num_tasks[mine]
            prompts[where] = prompt[mine]
            rows[name] = demand, tasks, prompts
            base += len(kinds)
        return cls(rows)

    def of(self, application: str) -> tuple[FloatArray, IntArray, FloatArray]:
        """Seconds, numbers of tasks and prompt tokens per task, each [jobs, C].

        All three are 0 where the stage is absent.
        """
        return self.rows[application]


def _fit_network(
    template: Template,
    demand_s: FloatArray,
    tasks: IntArray,
    prompts: FloatArray,
    settings: BeliefSettings,
    linked: NDArray[np.bool_],
    most_rows: int,
) -> tuple[Network, str]:
    """The network, and a note if edges are left out. What is not linked is independent of all."""
    lengths = (NO_PROMPT,) * len(linked)
    data = PastStates.discretise(demand_s, tasks, settings, linked, prompts, lengths)
    if settings.prompts:
        lengths = tuple(
            choose_bins(data, stage, prompts[:, stage], tasks[:, stage]) if may else NO_PROMPT
            for stage, may in enumerate(linked)
        )
        data = PastStates.discretise(demand_s, tasks, settings, linked, prompts, lengths)
    parents: list[tuple[int, ...]] = [() for _ in data.states]
    note = ""
    if len(data.linked):
        data, parents, left_out = learn(data, settings.max_parents, most_rows)
        if left_out:
            note = f"{left_out} edges are left out: they would join too many states"
    tables = [data.counts(variable, ()) + UNSEEN_JOBS for variable in range(len(data.states))]
    tables = [table / table.sum() for table in tables]
    if len(data.linked):
        for variable, table in _parameters(template, data, parents, settings.prior_jobs).items():
            tables[variable] = table
    return data.network(parents, tables), note


def _parameters(
    template: Template, data: PastStates, parents: Sequence[tuple[int, ...]], prior_jobs: float
) -> dict[int, FloatArray]:
    """P(variable | parents) of every linked variable, by Bayesian estimation."""
    with needs_pgmpy():
        from pgmpy.models import DiscreteBayesianNetwork
        from pgmpy.parameter_estimator import DiscreteBayesianEstimator

    linked = data.linked.tolist()
    prior = {
        variable: _pseudo_counts(template, data, variable, parents[variable], prior_jobs)
        for variable in linked
    }
    model = DiscreteBayesianNetwork(
        [(parent, child) for child, row in enumerate(parents) for parent in row]
    )
    model.add_nodes_from(linked)
    estimator = DiscreteBayesianEstimator(
        state_names={variable: list(range(data.states[variable])) for variable in linked},
        prior_type="dirichlet",
        pseudo_counts={
            variable: table.reshape(-1, table.shape[-1]).T for variable, table in prior.items()
        },
    )
    estimator.fit(model, data.frame())
    tables = {}
    for cpd in estimator.parameters_:
        variable, row = cpd.variables[0], parents[cpd.variables[0]]
        assert tuple(cpd.variables[1:]) == row  # pgmpy sorts parents, as we do
        tables[variable] = np.ascontiguousarray(np.moveaxis(cpd.values, 0, -1))
    return tables


def _pseudo_counts(
    template: Template,
    data: PastStates,
    variable: int,
    parents: tuple[int, ...],
    prior_jobs: float,
) -> FloatArray:
    """The Dirichlet prior of one conditional table, in jobs: [*parent states, states].

    Each row's prior is distributed like the rows around it, which count half as much for each
    step of a parent to a neighbouring state, and one job like all rows together. So a rare
    combination falls back on similar ones.
    """
    counts = data.counts(variable, parents)
    states = counts.shape[-1]
    overall = counts.sum(axis=tuple(range(len(parents)))) + UNSEEN_JOBS
    near = counts
    for axis, parent_states in enumerate(counts.shape[:-1]):
        near = np.moveaxis(np.tensordot(_nearness(parent_states), near, (1, axis)), 0, axis)
    near = near + overall / overall.sum()
    own = int(data.own_fanout[variable])
    if own in parents:  # absent if and only if the fan-out is 0
        near = np.moveaxis(near, parents.index(own), 0)
        near[0], near[1:, ..., 0] = np.eye(states)[0], 0.0
        near = np.moveaxis(near, 0, parents.index(own))
    prior = np.ascontiguousarray(prior_jobs * near / near.sum(axis=-1, keepdims=True))
    _rule_out(template, data, variable, parents, prior)
    return prior


def _nearness(states: int) -> FloatArray:
    """How much a parent's state resembles another: half per step, not at all where absent."""
    state = np.arange(states)
    near = 0.5 ** np.abs(state[:, None] - state)
    near[0, 1:] = near[1:, 0] = 0.0
    return near


def _rule_out(
    template: Template, data: PastStates, variable: int, parents: tuple[int, ...], prior: FloatArray
) -> None:
    """Nothing is revealed by what is absent: make such rows say so."""
    stages = np.where(data.fanout >= 0, data.fanout, data.demand)
    stage = int(np.flatnonzero(stages == variable)[0]) if variable in stages else -1
    if stage < 0 or template.at_arrival[stage]:
        return
    revealers = template.revealers[stage]
    axes = []
    for revealer in revealers:
        shown = {int(of[revealer]) for of in (data.fanout, data.prompt, data.demand)}
        shown &= set(parents)
        if not shown:
            return
        axes.append(parents.index(min(shown)))
    absent = tuple(0 if axis in axes else slice(None) for axis in range(len(parents)))
    prior[(*absent, slice(1, None))] = IMPOSSIBLE_JOBS / (prior.shape[-1] - 1)
    prior[(*absent, 0)] = 1.0


def _task_demands(
    past: JobBank, task_s: FloatArray, settings: BeliefSettings
) -> dict[str, TaskDemand]:
    task_kind = np.repeat(past.stage_kind, np.diff(past.stage_tasks))
    stage_job = np.repeat(np.arange(len(past)), np.diff(past.job_stages))
    task_application = np.repeat(past.job_application[stage_job], np.diff(past.stage_tasks))

    def over(tasks: NDArray[np.bool_], jobs: int) -> TaskDemand:
        kinds = [task_s[tasks & (task_kind == kind)] for kind in (Kind.LLM, Kind.REGULAR)]
        filled = [values if len(values) else np.zeros(1) for values in kinds]
        return TaskDemand(
            mean=np.array([values.mean() for values in filled]),
            variance=np.array([values.var() for values in filled]),
            low=np.array([np.quantile(values, settings.low) for values in filled]),
            high=np.array([np.quantile(values, settings.high) for values in filled]),
            per_job=np.array([values.sum() / jobs for values in filled]),
        )

    demands = {"": over(np.ones(len(task_s), bool), len(past))}
    for number, name in enumerate(past.applications):
        jobs = int(np.count_nonzero(past.job_application == number))
        demands[name] = over(task_application == number, jobs)
    return demands


def load_or_fit(
    past: JobBank,
    latency: LatencyProfile,
    settings: BeliefSettings | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> BeliefProfile:
    """:func:`fit_profile`, kept on disk under a name that depends on everything it depends on.

    Those of the generated applications on the default cluster ship with the package
    (:mod:`llmsched_gym.belief.shipped`).

    Parameters
    ----------
    cache_dir : default the user's cache directory. One that cannot be read or written, or a
        damaged file in it, is no error: the profile is fitted anew, and a line on stderr says so.
    """
    settings = settings or BeliefSettings()
    made_from = fingerprint(past, latency, settings)
    shipped = SHIPPED / f"{made_from[:16]}.npz"
    if cache_dir is None and shipped.is_file():
        return BeliefProfile.load(shipped)
    if cache_dir is None:
        from platformdirs import user_cache_dir

        cache_dir = user_cache_dir("llmsched-gym")
    path = Path(cache_dir) / f"belief-{_with_versions(made_from)}.npz"
    try:
        return BeliefProfile.load(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        note("belief", f"{one_line(error)}; the belief is fitted anew")
    profile = fit_profile(past, latency, settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        profile.save(path)
    except OSError as error:  # a read-only home directory, a full disk
        note("belief", f"{one_line(error)}: the belief is not kept, the next run fits it anew")
    return profile


def fingerprint(past: JobBank, latency: LatencyProfile, settings: BeliefSettings) -> str:
    """sha256 over the past jobs, what their tasks cost, the settings and the fitting code."""
    digest = hashlib.sha256()
    modules = (profile_module, structure_module, template_module)
    for source in (__file__, *(str(module.__file__) for module in modules)):
        digest.update(Path(source).read_bytes())
    digest.update(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update(json.dumps([past.applications, past.stage_names]).encode())
    for array in (
        past.job_application,
        past.job_stages,
        past.stage_name,
        past.stage_kind,
        past.stage_revealed_by,
        past.stage_parents,
        past.parents,
        past.stage_tasks,
        past.prompt_tokens,
        task_seconds(past, latency),
    ):
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _with_versions(made_from: str) -> str:
    """The fingerprint, and that of the packages that fit: another one may round otherwise."""
    digest = hashlib.sha256(made_from.encode())
    for package in ("pgmpy", "numpy"):
        with suppress(PackageNotFoundError):  # a belief that is kept needs none
            digest.update(f"{package} {version(package)}\n".encode())
    return digest.hexdigest()

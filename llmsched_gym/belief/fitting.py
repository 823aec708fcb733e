"""Fit one Bayesian network per application on past jobs, with pgmpy; keep it on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.belief import profile as profile_module
from llmsched_gym.belief.networks import separators_of
from llmsched_gym.belief.profile import (
    BeliefProfile,
    BeliefSettings,
    Bins,
    FloatArray,
    IntArray,
    Network,
    TaskDemand,
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
MAX_ROWS = 1 << 13  # states of all separators of a network, 6 KiB each
ALL_ROWS = 1 << 17  # of all networks together, as far as edges make them
MAX_CELLS = 1 << 20  # of one conditional table
PROMPT_BINS = (2, 4, 8)  # tried for the length of a prompt
PROMPT_ROWS = 2048  # states of all separators that a network with prompts may have in any case
CANDIDATES = 8  # parents tried per variable: those with the largest BIC gain alone
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


@dataclass(frozen=True)
class _Data:
    """The past jobs of one application as states of the network's variables."""

    demand: IntArray  # [C] variables
    fanout: IntArray  # [C] variables, -1 if none
    prompt: IntArray  # [C] variables, -1 if none
    demand_bins: tuple[Bins, ...]
    fanout_bins: tuple[Bins, ...]
    prompt_bins: tuple[Bins, ...]
    states: IntArray  # [V]
    codes: IntArray  # [jobs, V]
    own_fanout: IntArray  # [V]: of a demand or prompt, the fan-out variable of its stage; else -1
    linked: IntArray  # the variables that may have edges, ascending

    @classmethod
    def discretise(
        cls,
        demand_s: FloatArray,
        tasks: IntArray,
        settings: BeliefSettings,
        linked: NDArray[np.bool_],
        prompts: FloatArray,
        lengths: Sequence[Bins],
    ) -> _Data:
        """``lengths`` are the bins of the stages' prompts; two states are no variable."""
        demand, fanout, prompt, own, states = [], [], [], [], []
        variables: list[int] = []
        codes: list[IntArray] = []
        demand_bins, fanout_bins = [], []

        def add(present: NDArray[np.bool_], values: FloatArray, bins: Bins, of: int = -1) -> int:
            codes.append(np.where(present, bins.state(values), 0))
            states.append(len(bins))
            own.append(of)
            return len(codes) - 1

        for seconds, counts, may, tokens, length in zip(
            demand_s.T, tasks.T, linked, prompts.T, lengths, strict=True
        ):
            present = counts > 0
            count = counts[present].astype(np.float64)
            number = Bins.fit(count, count, settings.fanouts)
            bins = Bins.fit(seconds[present], count, settings.bins)
            first, fan, told = len(codes), -1, -1
            if may and counts.min() < counts.max():
                fan = add(present, counts.astype(np.float64), number)
            if may and len(length) > 2:
                told = add(present, tokens, length, fan)
            demand.append(add(present, seconds, bins, fan))
            fanout.append(fan)
            prompt.append(told)
            if may:
                variables += range(first, len(codes))
            demand_bins.append(bins)
            fanout_bins.append(number)
        return cls(
            np.array(demand, np.int64),
            np.array(fanout, np.int64),
            np.array(prompt, np.int64),
            tuple(demand_bins),
            tuple(fanout_bins),
            tuple(lengths),
            np.array(states, np.int64),
            np.stack(codes, axis=1).astype(np.int64),
            np.array(own, np.int64),
            np.array(variables, np.int64),
        )

    def followed(self, codes: IntArray, bins: Bins) -> _Data:
        """With one more variable, the last."""
        return replace(
            self,
            states=np.append(self.states, len(bins)),
            codes=np.column_stack([self.codes, codes]),
            own_fanout=np.append(self.own_fanout, -1),
        )

    def useful(self, parents: Sequence[tuple[int, ...]]) -> NDArray[np.bool_]:
        """Which variables are a demand or a fan-out, or above one: bool [V]."""
        needed = np.ones(len(self.states), bool)
        needed[self.prompt[self.prompt >= 0]] = False
        for variable in reversed(range(len(needed))):
            if needed[variable]:
                needed[list(parents[variable])] = True
        return needed

    def only(self, kept: NDArray[np.bool_]) -> _Data:
        """The same without some of the prompts."""
        place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
        return replace(
            self,
            demand=place[self.demand],
            fanout=place[self.fanout],
            prompt=place[self.prompt],
            states=self.states[kept],
            codes=self.codes[:, kept],
            own_fanout=place[self.own_fanout[kept]],
            linked=place[self.linked[kept[self.linked]]],
        )

    def counts(self, variable: int, parents: Sequence[int]) -> FloatArray:
        """How many jobs have each combination: [*parent states, states of the variable]."""
        axes = [*parents, variable]
        shape = tuple(int(self.states[axis]) for axis in axes)
        flat = np.ravel_multi_index(tuple(self.codes[:, axis] for axis in axes), shape)
        return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)

    def frame(self) -> Any:
        """The columns of linked variables, as a data frame."""
        import pandas as pd

        columns = pd.Index(self.linked.tolist(), dtype=object)  # pgmpy stumbles over numpy's ints
        return pd.DataFrame(self.codes[:, self.linked], columns=columns)

    def required(self, variable: int) -> tuple[int, ...]:
        """The parent that a variable always has: demands and prompts the fan-out of their stage."""
        own = int(self.own_fanout[variable])
        return () if own < 0 else (own,)

    def network(self, parents: Sequence[Sequence[int]], tables: Sequence[FloatArray]) -> Network:
        return Network(
            self.demand,
            self.fanout,
            self.prompt,
            self.demand_bins,
            self.fanout_bins,
            self.prompt_bins,
            tuple(tuple(row) for row in parents),
            tuple(tables),
        )


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
    lengths = (_NO_PROMPT,) * len(linked)
    data = _Data.discretise(demand_s, tasks, settings, linked, prompts, lengths)
    if settings.prompts:
        lengths = tuple(
            _lengths(data, stage, prompts[:, stage], tasks[:, stage]) if may else _NO_PROMPT
            for stage, may in enumerate(linked)
        )
        data = _Data.discretise(demand_s, tasks, settings, linked, prompts, lengths)
    parents: list[tuple[int, ...]] = [() for _ in data.states]
    note = ""
    if len(data.linked):
        prompt = set(data.prompt.tolist())
        found = _structure(data, settings.max_parents, prompt)
        parents = _narrowed(data, found, most_rows)
        left_out = sum(map(len, found)) - sum(map(len, parents))
        if len(prompt) > 1:  # there is always a -1
            told = _structure(data, settings.max_parents)
            parents = _told(data, parents, told, most_rows)
        data, parents = _pruned(data, parents)
        if left_out:
            note = f"{left_out} edges are left out: they would join too many states"
    tables = [data.counts(variable, ()) + UNSEEN_JOBS for variable in range(len(data.states))]
    tables = [table / table.sum() for table in tables]
    if len(data.linked):
        for variable, table in _parameters(template, data, parents, settings.prior_jobs).items():
            tables[variable] = table
    return data.network(parents, tables), note


_NO_PROMPT = Bins.fit(np.zeros(0), np.zeros(0), 1)


def _lengths(data: _Data, stage: int, tokens: FloatArray, tasks: IntArray) -> Bins:
    """Bins of a stage's prompts: as many as tell most, by BIC, of what runs with and after it.

    Few past jobs bear few bins, and a close relation is worth many. Where none tells anything,
    ``_NO_PROMPT``.
    """
    present = tasks > 0
    after = data.linked[data.linked >= data.demand[stage]].tolist()
    alone = [_bic(data)(variable, data.required(variable)) for variable in after]
    chosen, most = _NO_PROMPT, 0.0
    for number in PROMPT_BINS:
        bins = Bins.fit(tokens[present], tasks[present].astype(np.float64), number)
        if len(bins) == 2:
            break
        score = _bic(data.followed(np.where(present, bins.state(tokens), 0), bins))
        gain = 0.0
        for variable, before in zip(after, alone, strict=True):
            parents = (*data.required(variable), len(data.states))
            gain += max(0.0, score(variable, parents) - before)
        if gain > most:
            chosen, most = bins, gain
    return chosen


def _told(
    data: _Data, plain: list[tuple[int, ...]], told: list[tuple[int, ...]], most: int
) -> list[tuple[int, ...]]:
    """The structure with prompts, as far as they do not join too many states.

    Variables turn from their ``plain`` parents to those they have with prompts, first those that
    gain most by it (BIC), while there is room: for twice as many states as there are without.
    """

    def rows(tried: list[tuple[int, ...]]) -> int:
        return _rows(*_pruned(data, tried))

    room = min(most, max(2 * rows(plain), PROMPT_ROWS))
    if rows(told) <= room:
        return told
    score, prompt = _bic(data), set(data.prompt.tolist())
    gains = {v: score(v, told[v]) - score(v, plain[v]) for v in data.linked.tolist()}
    for variable in sorted(gains, key=lambda v: -gains[v]):
        tried, above = list(plain), [variable]
        while above and variable not in prompt:
            v = above.pop()
            tried[v] = told[v]
            above += [parent for parent in told[v] if parent in prompt]
        if rows(tried) <= room:
            plain = tried
    return plain


def _pruned(data: _Data, parents: Sequence[tuple[int, ...]]) -> tuple[_Data, list[tuple[int, ...]]]:
    """Without the prompts that no demand or fan-out depends on: they cost time and tell nothing."""
    kept = data.useful(parents)
    place = np.cumsum(kept) - 1
    rows = [parents[variable] for variable in np.flatnonzero(kept).tolist()]
    return data.only(kept), [tuple(int(place[parent]) for parent in row) for row in rows]


def _structure(
    data: _Data, max_parents: int, without: Container[int] = ()
) -> list[tuple[int, ...]]:
    """Parents of every variable, by hill climbing on the BIC along the topological order.

    Under a fixed order the search falls apart into one search per variable, each over the
    candidates that gain most alone. A demand variable always has its stage's fan-out as a parent.
    Variables ``without`` are nobody's parents, and have none but that.
    """
    with _pgmpy():
        from pgmpy.causal_discovery import ExpertKnowledge, HillClimbSearch
        from pgmpy.structure_score import BIC

    local_score = _bic(data)

    class FreeParameterBIC(BIC):  # type: ignore[misc]
        """BIC that counts the parameters of combinations that occur."""

        def _local_score(self, variable: int, parents: tuple[int, ...]) -> float:
            return local_score(variable, tuple(sorted(parents)))

    linked = data.linked.tolist()
    frame = data.frame()
    states = {variable: list(range(data.states[variable])) for variable in linked}
    score = FreeParameterBIC(frame, state_names=states)
    found: list[tuple[int, ...]] = [() for _ in data.states]
    for place, variable in enumerate(linked):
        found[variable] = required = data.required(variable)
        if max_parents <= len(required) or variable in without:
            continue
        earlier = [other for other in linked[:place] if other not in without]
        candidates = _candidates(variable, required, earlier, local_score)
        columns = [*required, *candidates]
        if not candidates:
            continue
        search = HillClimbSearch(
            scoring_method=score,
            max_indegree=max_parents,
            expert_knowledge=ExpertKnowledge(
                search_space={(parent, variable) for parent in columns},
                required_edges={(parent, variable) for parent in required},
            ),
            return_type="dag",
            show_progress=False,
        )
        search.fit(frame[[*columns, variable]])
        found[variable] = tuple(sorted(search.causal_graph_.get_parents(variable)))
    return found


def _candidates(
    variable: int,
    required: tuple[int, ...],
    earlier: Sequence[int],
    score: Callable[[int, tuple[int, ...]], float],
) -> list[int]:
    alone = score(variable, required)
    gains = [
        (score(variable, tuple(sorted((*required, other)))) - alone, other)
        for other in earlier
        if other not in required
    ]
    return [other for gain, other in sorted(gains, reverse=True)[:CANDIDATES] if gain > 0]


def _bic(data: _Data) -> Callable[[int, tuple[int, ...]], float]:
    """The BIC of one variable given parents, with ties broken in favour of near parents.

    Free parameters are those of the parent combinations that occur, less what the stage's own
    fan-out fixes: its demand is absent if and only if the fan-out is 0.
    """
    penalty = 0.5 * np.log(len(data.codes))
    log = np.log(np.maximum(np.arange(len(data.codes) + 1), 1))

    def score(variable: int, parents: tuple[int, ...]) -> float:
        if math.prod(data.states[[variable, *parents]].tolist()) > MAX_CELLS:
            return -1e300
        counts = data.counts(variable, parents)
        rows = counts.reshape(-1, counts.shape[-1]).astype(np.int64)
        total = rows.sum(axis=1)
        likelihood = float((rows * log[rows]).sum() - (total * log[total]).sum())
        possible = np.full(len(rows), np.count_nonzero(rows.sum(axis=0)))
        if data.own_fanout[variable] in parents:
            possible[:] = counts.shape[-1] - 1
            possible[rows[:, 0] > 0] = 1
        free = float(((possible - 1) * (total > 0)).sum())
        far = sum(variable - parent for parent in parents)
        return likelihood - penalty * free - 1e-9 * far

    return score


def _narrowed(data: _Data, parents: list[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    """These parents, without those of variables that would join too many states.

    What is joined is what inference has tables for: see
    :func:`llmsched_gym.belief.networks.separators_of`.
    """
    if _rows(data, parents) <= most:
        return parents
    kept = [data.required(variable) for variable in range(len(data.states))]
    most = max(most, _rows(data, kept))
    for variable in data.linked.tolist():
        without, kept[variable] = kept[variable], parents[variable]
        if _rows(data, kept) > most:
            kept[variable] = without
    return kept


def _rows(data: _Data, parents: Sequence[Sequence[int]]) -> int:
    """States of all separators together: what inference has tables for."""
    states = data.states.tolist()
    return sum(math.prod(states[v] for v in row) for row in separators_of(parents))


def _parameters(
    template: Template, data: _Data, parents: Sequence[tuple[int, ...]], prior_jobs: float
) -> dict[int, FloatArray]:
    """P(variable | parents) of every linked variable, by Bayesian estimation."""
    with _pgmpy():
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
    data: _Data,
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
    template: Template, data: _Data, variable: int, parents: tuple[int, ...], prior: FloatArray
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


@contextmanager
def _pgmpy() -> Iterator[None]:
    """Import it: where it is missing a line says what to do."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"the belief about these jobs must be fitted, which needs {error.name}: "
            'pip install "llmsched-gym[commands]"; belief=none needs no fitting'
        ) from error


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
    for source in (__file__, profile_module.__file__, template_module.__file__):
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

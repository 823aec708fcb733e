"""The past jobs as states of a network's variables, and which of them are each other's parents."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.belief.networks import separators_of
from llmsched_gym.belief.profile import BeliefSettings, Bins, FloatArray, IntArray, Network

MAX_CELLS = 1 << 20  # of one conditional table
PROMPT_BINS = (2, 4, 8)  # tried for the length of a prompt
PROMPT_ROWS = 1024  # states of all separators that a network with prompts may have in any case
CANDIDATES = 8  # parents tried per variable: those with the largest BIC gain alone
NO_PROMPT = Bins.fit(np.zeros(0), np.zeros(0), 1)  # bins of a prompt that is no variable


@dataclass(frozen=True)
class PastStates:
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
    ) -> PastStates:
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

    def followed(self, codes: IntArray, bins: Bins) -> PastStates:
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

    def only(self, kept: NDArray[np.bool_]) -> PastStates:
        """The same without some of the prompts."""
        place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
        return replace(
            self,
            demand=place[self.demand],
            fanout=place[self.fanout],
            prompt=place[self.prompt],
            prompt_bins=tuple(
                bins if place[variable] >= 0 else NO_PROMPT
                for variable, bins in zip(self.prompt, self.prompt_bins, strict=True)
            ),
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
        """The network of these variables with these edges and probabilities."""
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


def choose_bins(data: PastStates, stage: int, tokens: FloatArray, tasks: IntArray) -> Bins:
    """Bins of a stage's prompts: as many as tell most, by BIC, of what runs with and after it.

    Few past jobs bear few bins, and a close relation is worth many. Where none tells anything,
    ``NO_PROMPT``.
    """
    present = tasks > 0
    after = data.linked[data.linked >= data.demand[stage]].tolist()
    alone = [_bic(data)(variable, data.required(variable)) for variable in after]
    chosen, most = NO_PROMPT, 0.0
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


def learn(
    data: PastStates, max_parents: int, most: int
) -> tuple[PastStates, list[tuple[int, ...]], int]:
    """Parents of every variable, and how many edges are left out.

    Prompts that no demand or fan-out depends on are no variables of what is returned.

    Parameters
    ----------
    data : the past jobs.
    max_parents : of a variable at most.
    most : states of all separators together at most.
    """
    prompts = set(data.prompt[data.prompt >= 0].tolist())
    found = _structure(data, max_parents, prompts)
    parents = _narrowed(data, found, most)
    left_out = sum(map(len, found)) - sum(map(len, parents))
    if prompts:
        parents = _told(data, parents, _structure(data, max_parents), most)
    return *_pruned(data, parents), left_out


def _told(
    data: PastStates, plain: list[tuple[int, ...]], told: list[tuple[int, ...]], most: int
) -> list[tuple[int, ...]]:
    """The structure with prompts, as far as they are sure to tell and there is room.

    Variables turn from their ``plain`` parents to those they have with prompts, first those that
    gain most by it (BIC): if they gain more than the logarithm of the number of variables that
    might be parents, since of many some fit by chance (Chen and Chen, Biometrika 95, 2008), and
    as long as no more than twice as many states are joined as without.
    """
    prompts, score = set(data.prompt[data.prompt >= 0].tolist()), _bic(data)
    room = min(most, max(2 * _rows(*_pruned(data, plain)), PROMPT_ROWS))
    gains = {}
    for place, v in enumerate(data.linked.tolist()):
        if v not in prompts and prompts & {*told[v]}:
            gain = score(v, told[v]) - score(v, plain[v])
            if gain > math.log(place):
                gains[v] = gain
    for variable in sorted(gains, key=lambda v: -gains[v]):
        tried, turning = list(plain), [variable]
        while turning:  # and the prompts above it
            v = turning.pop()
            tried[v] = told[v]
            turning += prompts & {*told[v]}
        if _rows(*_pruned(data, tried)) <= room:
            plain = tried
    return plain


def _pruned(
    data: PastStates, parents: Sequence[tuple[int, ...]]
) -> tuple[PastStates, list[tuple[int, ...]]]:
    """Without the prompts that no demand or fan-out depends on: they cost time and tell nothing."""
    kept = data.useful(parents)
    place = np.cumsum(kept) - 1
    rows = [parents[variable] for variable in np.flatnonzero(kept).tolist()]
    return data.only(kept), [tuple(int(place[parent]) for parent in row) for row in rows]


def _structure(
    data: PastStates, max_parents: int, without: Container[int] = ()
) -> list[tuple[int, ...]]:
    """Parents of every variable, by hill climbing on the BIC along the topological order.

    Under a fixed order the search falls apart into one search per variable, each over the
    candidates that gain most alone. A demand variable always has its stage's fan-out as a parent.
    Variables ``without`` are nobody's parents, and have none but that.
    """
    with needs_pgmpy():
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


def _bic(data: PastStates) -> Callable[[int, tuple[int, ...]], float]:
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


def _narrowed(data: PastStates, parents: list[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
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


def _rows(data: PastStates, parents: Sequence[Sequence[int]]) -> int:
    """States of all separators together: what inference has tables for."""
    states = data.states.tolist()
    return sum(math.prod(states[v] for v in row) for row in separators_of(parents))


@contextmanager
def needs_pgmpy() -> Iterator[None]:
    """Import it: where it is missing a line says what to do."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"the belief about these jobs must be fitted, which needs {error.name}: "
            'pip install "llmsched-gym[commands]"; belief=none needs no fitting'
        ) from error

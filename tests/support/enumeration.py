"""What should be believed of a job, by adding up the whole joint distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.belief.profile import BeliefProfile, Bins, Network
from llmsched_gym.belief.work import WorkRates
from llmsched_gym.workload.job import Kind
from llmsched_gym.workload.template import Template
from support.moments import Moment

FloatArray = NDArray[np.float64]


def entropy(p: FloatArray) -> float:
    """In bits."""
    some = np.asarray(p)[np.asarray(p) > 0]
    return float(-(some * np.log2(some)).sum())


def information(joint: FloatArray) -> float:
    """Between the first axis and the others jointly, in bits."""
    others = tuple(range(1, joint.ndim))
    return entropy(joint.sum(axis=others)) + entropy(joint.sum(axis=0)) - entropy(joint)


def nearest_bin(bins: Bins, value: float) -> int:
    """State of a value: the bin with the least distance to it, the first one at equal distance."""
    outside = np.maximum(bins.least[1:] - value, value - bins.most[1:])
    return 1 + int(np.argmin(np.maximum(outside, 0)))


def quantile(bins: Bins, means: FloatArray, p: FloatArray, level: float) -> float:
    """The least x with F(x) >= level (at 0: with F > 0), by bisection in the mixture of the bins.

    A bin from ``least`` to ``most`` has F(x) = ((x - least) / (most - least)) ** (1 / shape), where
    the shape gives it its mean; one whose mean lies at an end is a single value.
    """

    rounding = 1e-9 * (bins.most - bins.least)
    single = (means <= bins.least + rounding) | (means >= bins.most - rounding)

    def below(x: float) -> float:
        total = 0.0
        for k in np.flatnonzero(p):
            least, most, mean = bins.least[k], bins.most[k], means[k]
            if single[k]:
                total += p[k] * (x >= mean)
            else:
                part = np.clip((x - least) / (most - least), 0, 1)
                total += p[k] * part ** ((mean - least) / (most - mean))
        return total

    if level == 0:
        return float(np.where(single, means, bins.least)[p > 0].min())
    low, high = -1.0, float(max(bins.most.max(), means.max())) + 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if below(middle) >= level - 1e-12 else (middle, high)
    return high


class Joint:
    """P(all variables | each in its allowed states), as one array."""

    def __init__(self, network: Network, allowed: dict[int, set[int]]) -> None:
        states = network.states
        self.p = np.ones(states)
        for variable, (parents, table) in enumerate(
            zip(network.parents, network.tables, strict=True)
        ):
            axes = {*parents, variable}
            self.p = self.p * table.reshape(
                [n if axis in axes else 1 for axis, n in enumerate(states)]
            )
        for variable, some in allowed.items():
            mask = np.array([float(x in some) for x in range(states[variable])])
            self.p = self.p * mask.reshape([-1 if v == variable else 1 for v in range(len(states))])
        self.possible = bool(self.p.sum() > 0)
        if self.possible:
            self.p = self.p / self.p.sum()

    def of(self, *variables: int) -> FloatArray:
        """P of some variables, axes in the order given."""
        ascending = sorted(variables)
        rest = tuple(v for v in range(self.p.ndim) if v not in variables)
        return np.transpose(self.p.sum(axis=rest), [ascending.index(v) for v in variables])

    def information(self, x: int, others: Sequence[int]) -> float:
        """I(x; others jointly) in bits."""
        return information(self.of(x, *others))


@dataclass(frozen=True)
class Expected:
    """Everything that should be believed of a job at a moment, with or without evidence."""

    profile: BeliefProfile
    moment: Moment
    bayes: bool = True
    rates: Mapping[str, WorkRates] | None = None

    @property
    def network(self) -> Network:
        return self.profile.networks[self.moment.job.application]

    @property
    def template(self) -> Template:
        return self.profile.templates[self.moment.job.application]

    @property
    def count(self) -> int:
        return len(self.network.demand)

    @cached_property
    def visible(self) -> dict[int, int]:
        """The job's stage of each visible canonical stage."""
        row = {name: c for c, name in enumerate(self.template.stages)}
        return {
            row[name]: number
            for number, name in enumerate(self.moment.names)
            if self.moment.is_visible(number) and name in row
        }

    @cached_property
    def undetermined(self) -> set[int]:
        """Hidden stages that something unfinished may reveal, directly or in turn."""
        found: set[int] = set()
        while True:
            more = {
                c
                for c, revealers in enumerate(self.template.revealers)
                if c not in self.visible
                and any(
                    r in found or (r in self.visible and not self.complete(r)) for r in revealers
                )
            }
            if more == found:
                return found
            found = more

    def complete(self, c: int) -> bool:
        return self.moment.is_complete(self.visible[c])

    def same_kind(self, c: int) -> bool:
        return self.moment.job.stages[self.visible[c]].kind == self.template.kinds[c]

    @cached_property
    def present(self) -> set[int]:
        """Visible unfinished stages that the network knows."""
        return {c for c in self.visible if self.same_kind(c) and not self.complete(c)}

    @cached_property
    def strangers(self) -> list[int]:
        """Visible stages of the job that the network does not know."""
        known = {number for c, number in self.visible.items() if self.same_kind(c)}
        job = self.moment.job
        return [
            number
            for number in range(len(job.stages))
            if self.moment.is_visible(number) and number not in known
        ]

    def tasks(self, c: int) -> int:
        return len(self.moment.job.stages[self.visible[c]].tasks)

    @cached_property
    def allowed(self) -> dict[int, set[int]]:
        """The evidence: allowed states of variables."""
        network = self.network
        allowed: dict[int, set[int]] = {}
        for c in range(self.count):
            variables = (network.demand, network.fanout, network.prompt)
            demand, fanout, prompt = (int(row[c]) for row in variables)
            if c in self.visible:
                if not self.same_kind(c):
                    continue
                number = self.visible[c]
                if self.complete(c):
                    value = self.moment.demand_s(number)
                    allowed[demand] = {nearest_bin(network.demand_bins[c], value)}
                else:
                    allowed[demand] = set(range(1, network.states[demand]))
                if fanout >= 0:
                    allowed[fanout] = {nearest_bin(network.fanout_bins[c], self.tasks(c))}
                if prompt >= 0 and self.moment.is_ready(number):
                    tokens = self.moment.prompt_tokens(number)
                    allowed[prompt] = {nearest_bin(network.prompt_bins[c], tokens)}
                elif prompt >= 0:
                    allowed[prompt] = set(range(1, network.states[prompt]))
            elif c not in self.undetermined:
                allowed |= {v: {0} for v in (demand, fanout, prompt) if v >= 0}
        return allowed

    @cached_property
    def joint(self) -> Joint:
        return Joint(self.network, self.allowed if self.bayes else {})

    def given_present(self, c: int) -> Joint:
        """Without other evidence, a stage being present."""
        network = self.network
        demand, fanout = int(network.demand[c]), int(network.fanout[c])
        allowed = {demand: set(range(1, network.states[demand]))}
        if fanout >= 0:
            allowed[fanout] = set(range(1, network.states[fanout]))
        return Joint(network, allowed)

    def of_stage(self, c: int) -> Joint:
        """The distribution that a stage is judged by."""
        prior = not self.bayes and c in self.present
        return self.given_present(c) if prior else self.joint

    def fanout_asked(self, c: int) -> int:
        """The fan-out variable that a stage's mean demand depends on, -1 if there is none."""
        network = self.network
        known = self.bayes and c in self.present
        return -1 if known or len(network.fanout_bins[c]) <= 2 else int(network.fanout[c])

    def cells(self, c: int) -> FloatArray:
        """Mean demand of a stage: [states of the fan-out asked about, or 1; demand states]."""
        bins, counts = self.network.demand_bins[c], self.network.fanout_bins[c]
        if self.network.fanout[c] < 0 or len(counts) <= 2:
            return bins.mean[None]
        if self.bayes and c in self.present:
            return bins.given(np.array([float(self.tasks(c))]))
        return bins.given(counts.mean)

    def values(self, c: int) -> FloatArray:
        """Mean demand of a stage, as an array that broadcasts against the whole joint."""
        cells = self.cells(c)
        shape = [1] * len(self.network.states)
        shape[self.network.demand[c]] = cells.shape[1]
        if len(cells) > 1:
            shape[self.network.fanout[c]] = len(cells)
        return cells.reshape(shape)  # a fan-out comes before its demand

    def spread(self, c: int) -> FloatArray:
        """Variance of a stage's demand inside its bins, shaped like :meth:`values`."""
        demand = self.network.demand[c]
        shape = [1] * len(self.network.states)
        shape[demand] = self.network.states[demand]
        return self.network.demand_bins[c].variance.reshape(shape)

    def left(self, c: int) -> float:
        """The part of a stage's tasks that is not complete."""
        if c in self.undetermined:
            return 1.0
        if c not in self.present:
            return 0.0
        return 1 - self.moment.completed[self.visible[c]] / self.tasks(c)

    def stage(self, c: int) -> dict[str, float]:
        """Presence, mean, entropy and quantiles of a stage."""
        if c not in self.present and c not in self.undetermined:
            presence = float(c in self.visible)
            nothing = dict.fromkeys(("demand_s", "work_s", "entropy_bits", "low_s", "high_s"), 0.0)
            return nothing | {"presence": presence}
        demand, fanout = int(self.network.demand[c]), self.fanout_asked(c)
        joint = self.of_stage(c)
        return self.summary(c, joint.of(demand)[None] if fanout < 0 else joint.of(fanout, demand))

    def summary(self, c: int, joint: FloatArray) -> dict[str, float]:
        """Of the joint distribution of a stage's fan-out and demand, shaped like its cells."""
        p = joint.sum(axis=0)
        total = (joint * self.cells(c)).sum(axis=0)
        means = np.divide(total, p, out=np.zeros(len(p)), where=p > 0)
        bins, settings = self.network.demand_bins[c], self.profile.settings
        return {
            "presence": 1 - p[0],
            "demand_s": float(total.sum()),
            "work_s": float(total @ self.rate(c)),
            "entropy_bits": entropy(p),
            "low_s": quantile(bins, means, p, settings.low),
            "high_s": quantile(bins, means, p, settings.high),
        }

    def rate(self, c: int) -> FloatArray:
        """Work per second of a stage's demand, in each of its states."""
        if self.rates is None:
            return np.ones(len(self.network.demand_bins[c]))
        return self.rates[self.moment.job.application].stages[c]

    def range(self, c: int) -> float:
        row = self.stage(c)
        return row["high_s"] - row["low_s"]

    def job(self) -> dict[str, float]:
        """Sums over what remains of the job."""
        sums = dict.fromkeys(
            (
                *("llm_s", "regular_s", "low_llm_s", "low_regular_s", "high_llm_s"),
                *("high_regular_s", "variance_llm", "covariance", "variance_regular", "skipped"),
                "work_llm_s",
            ),
            0.0,
        )
        for c in range(self.count):
            if self.left(c) == 0.0:
                continue
            part = "llm_s" if self.template.kinds[c] == Kind.LLM else "regular_s"
            row = self.stage(c)
            sums[part] += self.left(c) * row["demand_s"]
            if part == "llm_s":
                sums["work_llm_s"] += self.left(c) * row["work_s"]
            sums[f"low_{part}"] += self.left(c) * row["low_s"]
            sums[f"high_{part}"] += self.left(c) * row["high_s"]
        sums |= self._variances() if self.bayes else self._prior_variances()
        self._add_strangers(sums)
        return sums

    def _variances(self) -> dict[str, float]:
        """By the law of total variance over the whole joint."""
        means, spreads = [0.0, 0.0], [0.0, 0.0]
        p = self.joint.p
        totals: list[FloatArray] = [np.zeros(p.shape), np.zeros(p.shape)]
        for c in range(self.count):
            kind, left = int(self.template.kinds[c]), self.left(c)
            totals[kind] = totals[kind] + left * self.values(c)
            spreads[kind] += float((p * left**2 * self.spread(c)).sum())
        means = [float((p * total).sum()) for total in totals]

        def covariance(a: int, b: int) -> float:
            return float((p * (totals[a] - means[a]) * (totals[b] - means[b])).sum())

        return {
            "variance_llm": covariance(0, 0) + spreads[0],
            "covariance": covariance(0, 1),
            "variance_regular": covariance(1, 1) + spreads[1],
        }

    def _prior_variances(self) -> dict[str, float]:
        """Stage by stage."""
        sums = {"variance_llm": 0.0, "covariance": 0.0, "variance_regular": 0.0}
        for c in range(self.count):
            part = "llm" if self.template.kinds[c] == Kind.LLM else "regular"
            if self.left(c) > 0.0:
                p, values = self.of_stage(c).p, self.values(c)
                square = (p * (values**2 + self.spread(c))).sum()
                variance = float(square - (p * values).sum() ** 2)
                sums[f"variance_{part}"] += self.left(c) ** 2 * variance
        return sums

    def _add_strangers(self, sums: dict[str, float]) -> None:
        """Stages the network does not know count as so many average tasks."""
        of_task = self.profile.tasks[self.moment.job.application]
        for number in self.strangers:
            sums["skipped"] += 1
            stage = self.moment.job.stages[number]
            kind, left = int(stage.kind), len(stage.tasks) - self.moment.completed[number]
            part = ("llm", "regular")[kind]
            sums[f"{part}_s"] += left * of_task.mean[kind]
            if kind == Kind.LLM:
                sums["work_llm_s"] += left * of_task.mean[kind] * self.rate_of_tasks(kind)
            sums[f"low_{part}_s"] += left * of_task.low[kind]
            sums[f"high_{part}_s"] += left * of_task.high[kind]
            sums[f"variance_{part}"] += left * of_task.variance[kind]

    def rate_of_tasks(self, kind: int) -> float:
        rates = self.rates
        return 1.0 if rates is None else float(rates[self.moment.job.application].tasks[kind])

    def clamped(self) -> int:
        """Values of known stages that no past job had."""
        network, count = self.network, 0
        for c, number in self.visible.items():
            if not self.same_kind(c):
                continue
            if self.complete(c):
                value, bins = self.moment.demand_s(number), network.demand_bins[c]
                count += not bins.least[1] - 1e-9 <= value <= bins.most[-1] + 1e-9
            if network.fanout[c] >= 0:
                bins, tasks = network.fanout_bins[c], self.tasks(c)
                count += not any((bins.least[1:] <= tasks) & (tasks <= bins.most[1:]))
            if network.prompt[c] >= 0 and self.moment.is_ready(number):
                tokens, bins = self.moment.prompt_tokens(number), network.prompt_bins[c]
                count += not bins.least[1] - 1e-9 <= tokens <= bins.most[-1] + 1e-9
        return count

    def distances(self, stage: int) -> dict[int, int]:
        """Stages whose demand is reachable from a stage's demand, and the steps between stages."""
        network = self.network
        owner = {int(v): c for c, v in enumerate(network.demand)}
        owner |= {int(v): c for c, v in enumerate(network.fanout) if v >= 0}
        edges = [edge for edge in network.edges if owner.keys() >= {*edge}]  # not through prompts
        length = {int(network.demand[stage]): 0}
        for _ in network.states:  # as many rounds as there are variables are enough
            for parent, child in edges:
                if parent in length:
                    steps = length[parent] + (owner[parent] != owner[child])
                    length[child] = min(steps, length.get(child, steps))
        demand = {int(v): c for c, v in enumerate(network.demand)}
        return {demand[v]: steps for v, steps in length.items() if v in demand and v != min(length)}

    def ready(self) -> list[int]:
        """Stages of the network that could run."""
        return [c for c in sorted(self.present) if self.moment.is_ready(self.visible[c])]

    def nearest(self, c: int) -> list[int]:
        """The nearest unfinished stages that a stage's demand may tell about."""
        distance = self.distances(c)
        unfinished = [y for y in distance if y in self.present or y in self.undetermined]
        ordered = sorted(unfinished, key=lambda y: (distance[y], y))
        return ordered[: self.profile.settings.reachable]

    def revealed(self, c: int) -> list[int]:
        """Undetermined stages that a stage's completion may reveal, if they are looked at."""
        if not self.profile.settings.structural:
            return []
        return [z for z in sorted(self.undetermined) if c in self.template.revealers[z]]

    def shown(self, z: int) -> int:
        """The variable that is known once a stage is revealed."""
        fanout = int(self.network.fanout[z])
        return fanout if fanout >= 0 else int(self.network.demand[z])

    def structural_entropy(self, z: int, p: FloatArray) -> float:
        """Of that variable's distribution."""
        return entropy(p if self.network.fanout[z] >= 0 else np.array([p[0], 1 - p[0]]))

    def reduction(self, c: int) -> float:
        """R of a stage: 0 unless it is ready."""
        if c not in self.ready():
            return 0.0
        joint, demand, nearest = self.of_stage(c), self.network.demand, self.nearest(c)
        information = joint.information(int(demand[c]), [int(demand[y]) for y in nearest])
        structure = sum(
            self.structural_entropy(z, joint.of(self.shown(z))) * self.range(z)
            for z in self.revealed(c)
        )
        return information * sum(map(self.range, nearest)) + structure

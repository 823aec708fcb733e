"""What an LLM engine costs: the latency profile of a GPU and a model.

One decode iteration with ``b`` sequences that hold ``kv`` tokens in total takes
``a + c b + d kv`` ms and gives each sequence one token. ``n`` prompt tokens that join an engine
together are prefilled in ``max(p0, e + f n + g n^2)`` ms; each sequence gets its first token of it.

Two traits say how an engine is driven; see :mod:`llmsched_gym.cluster.engines` for their exact
meaning and docs/model.md for which serving engine has which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_gym.checks import is_number, is_whole
from llmsched_gym.cluster.ticks import LONGEST_JOB_S, TICKS_PER_MS, TICKS_PER_SECOND
from llmsched_gym.workload.inputs import shown

LARGEST_MS = 1e6  # of a coefficient
MOST_KV_TOKENS = 10**12  # of an engine
MOST_CHUNKS = 10**6  # iterations that take one prompt
PREFILLS, JOINS = ("exclusive", "mixed"), ("at_boundary", "late")


class ClusterError(ValueError):
    """A cluster that cannot be built; the message names the field, and the file if there is one."""


@dataclass(frozen=True)
class LatencyProfile:
    """How long an LLM engine takes, and how many tokens it holds.

    The simulator counts whole ticks of 1 ps: ``a``, ``c`` and ``d`` are rounded to ticks one by
    one, a prefill as a whole.

    Parameters
    ----------
    name : of the profile, e.g. ``a100_llama2_7b``.
    a : ms per decode iteration, above 0.
    c : ms per decode iteration and sequence.
    d : ms per decode iteration and token held.
    p0 : ms, the shortest prefill, above 0.
    e : ms per prefill.
    f : ms per prefill and prompt token.
    g : ms per prefill and prompt token squared.
    kv_capacity_tokens : tokens of KV cache of one engine.
    prefill : "exclusive" (default), prompts are prefilled while the decoding sequences wait; or
        "mixed", an iteration is one token of each decoding sequence and prompt tokens beside them.
    token_budget : tokens of a mixed iteration at most, prompts longer than what is left of it being
        cut into chunks; None with an exclusive prefill.
    joins : "at_boundary" (default), a task that is dispatched at the very end of an iteration joins
        the next; or "late", the next has begun by then, so that it joins the one after.
    source : where the coefficients come from, and under which licence.
    error : how well they fit (``decode_mape_pct``, ``decode_max_pct``, ...) and in which range.

    Raises
    ------
    ClusterError
        if a coefficient is not between 0 and ``LARGEST_MS``, ``a`` or ``p0`` is below one tick,
        the capacity or the budget is not a whole number from 2 to ``MOST_KV_TOKENS``, a trait is
        unknown, or a budget is missing or of no use.
    """

    name: str
    a: float
    c: float
    d: float
    p0: float
    e: float
    f: float
    g: float
    kv_capacity_tokens: int
    prefill: str = "exclusive"
    token_budget: int | None = None
    joins: str = "at_boundary"
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    error: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("a", "c", "d", "p0", "e", "f", "g"):
            value = getattr(self, name)
            if not is_number(value, 0, LARGEST_MS):
                raise ClusterError(
                    f"{name}: {shown(value)} is not a time in ms, 0 to {LARGEST_MS:g}"
                )
        for name in ("a", "p0"):  # an iteration without length would never let time pass
            if getattr(self, name) * TICKS_PER_MS < 1:
                raise ClusterError(f"{name}: {getattr(self, name)} ms is below 1e-9 ms")
        check_count("kv_capacity_tokens", self.kv_capacity_tokens, 2, MOST_KV_TOKENS)
        self._check_traits()

    def _check_traits(self) -> None:
        for name, valid in (("prefill", PREFILLS), ("joins", JOINS)):
            if getattr(self, name) not in valid:
                raise ClusterError(
                    f"{name}: unknown {shown(getattr(self, name))}, choose from {', '.join(valid)}"
                )
        if not self.mixed and self.token_budget is not None:
            raise ClusterError("token_budget: only prefill=mixed has one, this is exclusive")
        if self.mixed and self.token_budget is None:
            raise ClusterError("token_budget: missing, prefill=mixed needs it")
        if self.mixed:
            check_count("token_budget", self.token_budget, 2, MOST_KV_TOKENS)

    @property
    def mixed(self) -> bool:
        """Whether prompts share iterations with decoding sequences."""
        return self.prefill == "mixed"

    @property
    def late(self) -> bool:
        """Whether a task that is dispatched at a boundary misses the iteration that begins."""
        return self.joins == "late"

    @property
    def decode_coefficients(self) -> tuple[int, int, int]:
        """``(a, c, d)`` in ticks."""
        return tuple(round(x * TICKS_PER_MS) for x in (self.a, self.c, self.d))  # type: ignore[return-value]

    @property
    def prefill_coefficients(self) -> tuple[float, float, float, float]:
        """``(p0, e, f, g)`` in ticks, not rounded."""
        return tuple(x * TICKS_PER_MS for x in (self.p0, self.e, self.f, self.g))  # type: ignore[return-value]

    def decode_ticks(self, batch: ArrayLike, kv: ArrayLike) -> NDArray[np.int64]:
        """Ticks of one decode iteration with ``batch`` sequences that hold ``kv`` tokens in all."""
        a, c, d = self.decode_coefficients
        return np.asarray(a + c * np.asarray(batch, np.int64) + d * np.asarray(kv, np.int64))

    def prefill_ticks(self, prompt: ArrayLike) -> NDArray[np.int64]:
        """Ticks to prefill ``prompt`` tokens on an idle engine.

        Of one sequence, or with an exclusive prefill of several together; a mixed one takes them in
        chunks of ``token_budget``.

        Raises
        ------
        ValueError
            if that takes longer than ``LONGEST_JOB_S``, or more than ``MOST_CHUNKS`` chunks.
        """
        _check_ticks(self._prefill(prompt))
        return self._prefill(prompt, np.int64)

    def demand_ticks(self, prompt: ArrayLike, output: ArrayLike) -> NDArray[np.int64]:
        """Ticks that a lone task takes on an idle engine: its service demand.

        ``prefill(p) + sum_{i=1}^{o-1} l(1, p + i)``, since the prefill yields the first token.

        Raises
        ------
        ValueError
            if a task takes longer than ``LONGEST_JOB_S``.
        """
        a, c, d = self.decode_coefficients
        p, steps = np.asarray(prompt, np.int64), np.asarray(output, np.int64) - 1
        if (
            p.size and self.demand_s(p.max(), steps.max() + 1) > LONGEST_JOB_S
        ):  # of two tasks, maybe
            _check_ticks(self.demand_s(p, steps + 1) * TICKS_PER_SECOND)
        held = steps * p + steps * (steps + 1) // 2  # sum of p + i over the iterations
        return np.asarray(self.prefill_ticks(p) + steps * (a + c) + d * held)

    def demand_s(self, prompt: ArrayLike, output: ArrayLike) -> NDArray[np.float64]:
        """Seconds of :meth:`demand_ticks`, rounded but however long."""
        a, c, d = self.decode_coefficients
        p, steps = np.asarray(prompt, np.float64), np.asarray(output, np.float64) - 1
        held = steps * p + steps * (steps + 1) / 2
        return np.asarray((self._prefill(p) + steps * (a + c) + d * held) / TICKS_PER_SECOND)

    def chunks(self, prompt: ArrayLike, decoding: int = 0) -> NDArray[np.int64]:
        """Iterations that prefill prompts beside ``decoding`` sequences; 1 if it is exclusive."""
        n = np.asarray(prompt, np.int64)
        return np.ones_like(n) if self.token_budget is None else -(-n // self._chunk(decoding))

    def _chunk(self, decoding: int) -> int:
        """Prompt tokens of a full iteration beside ``decoding`` sequences."""
        assert self.token_budget is not None
        return self.token_budget - decoding

    def _prefill(
        self, prompt: ArrayLike, dtype: type[Any] = np.float64, decoding: int = 0
    ) -> NDArray[Any]:
        """Ticks of a prefill, each of its iterations rounded to whole ones."""
        n = np.asarray(prompt, np.float64)
        _, e, f, g = self.prefill_coefficients
        if self.token_budget is None:
            return self._rounded(e + f * n + g * n * n).astype(dtype)
        chunk = self._chunk(decoding)
        whole = self.chunks(prompt, decoding) - 1  # before the last
        if whole.size and whole.max() >= MOST_CHUNKS:
            raise ValueError(
                f"tokens: a prompt of {n.max():.0f} tokens takes more than {MOST_CHUNKS} "
                f"iterations of {chunk} tokens (token_budget)"
            )
        begun = chunk * np.arange(whole.max(initial=0))
        of_whole = self._rounded(e + f * chunk + g * (chunk * (2 * begun + chunk))).astype(dtype)
        before, done = np.append(0, np.cumsum(of_whole)).astype(dtype), chunk * whole
        rest = np.asarray(prompt, np.int64) - done
        last = self._rounded(e + f * rest + g * (rest * (2 * done + rest))).astype(dtype)
        return np.asarray(before[whole] + last)

    def _rounded(self, ticks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Whole ticks of iterations with prompts, none below ``p0``."""
        return np.asarray(np.floor(np.maximum(self.prefill_coefficients[0], ticks) + 0.5))

    def slot_seconds(
        self, prompt: ArrayLike, output: ArrayLike, max_batch: int
    ) -> NDArray[np.float64]:
        """Slot-seconds that a task costs an engine that is always full.

        ``(o - 1) l(B, B (p + o / 2)) + B prefill(p)``: each of B alike sequences holds its prompt
        and on average half of its output, and an exclusive prefill blocks all B slots.

        With a mixed prefill the k iterations that take the prompt, beside B - 1 decoding sequences,
        give these their tokens too. Each is then one decode iteration less for the engine: of
        ``o - 1 + k`` iterations that a sequence takes part in, one in B is counted as its own, and
        of these all but k cost ``a``; where outputs are so short that none are left, prompts share
        iterations.
        """
        p, o = np.asarray(prompt, np.float64), np.asarray(output, np.float64)
        a, c, d = self.decode_coefficients
        decoding = c * max_batch + d * max_batch * (p + o / 2)
        if self.token_budget is None:
            ticks = (o - 1) * (a + decoding) + max_batch * self.prefill_ticks(p)
        else:
            k = self.chunks(p, max_batch - 1)
            alone = np.maximum(o - 1 + k - max_batch * k, 0) * a
            prefill = max_batch * self._prefill(p, decoding=max_batch - 1)
            ticks = alone + (o - 1) * decoding + prefill
        return np.asarray(ticks / TICKS_PER_SECOND)

    def engine_seconds(
        self, prompt: ArrayLike, output: ArrayLike, max_batch: int
    ) -> NDArray[np.float64]:
        """Engine work: the time that a task takes of an engine that is always full.

        ``(o - 1) (a / B + c + d (p + o / 2)) + prefill(p)``, its part of :meth:`slot_seconds`: an
        iteration is shared by B sequences, an exclusive prefill stops them all. Engine work is what
        an engine has to give; a load of 1 is one second of it per second and engine.
        """
        return self.slot_seconds(prompt, output, max_batch) / max_batch


def check_count(name: str, value: object, least: int, most: int) -> None:
    """ClusterError unless a value is a whole number from ``least`` to ``most``."""
    if not is_whole(value, least, most):
        raise ClusterError(
            f"{name}: {shown(value)} is not a whole number of at least {least}, {most} at most"
        )


def _check_ticks(ticks: NDArray[np.float64]) -> None:
    """ValueError if a time is near the largest that is counted in int64."""
    if ticks.size and ticks.max() > LONGEST_JOB_S * TICKS_PER_SECOND:
        raise ValueError(
            f"tokens: a task takes {ticks.max() / TICKS_PER_SECOND:g} s alone, the clock of the "
            f"simulator allows {LONGEST_JOB_S:g} s"
        )


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "load_cluster":  # it was here, and users' code may say so
            return import_module("llmsched_gym.cluster.preset").load_cluster
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

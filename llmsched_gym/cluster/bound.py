"""A mean job completion time that no scheduler can beat; docs/bound.md has the proof.

Each task is cut into *pieces*: its prefill and parts of its decode iterations, or parts of a tool
call. In an iteration with at most B sequences each piece has a share, and the shares add up to no
more than the iteration takes. So E engines are never faster than one machine that does E seconds of
pieces in a second, in any order and interrupted at will; for it the best order is known. What a job
needs before a piece can begin, and after it, at batch size 1, is not on the machine and adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.ticks import NEVER, TICKS_PER_SECOND
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Kind

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PARTS = 4  # of the decode iterations of a task, and of a tool call: more of them are little tighter
SAFE = 1 - 1e-12  # what is counted in floating point is taken to be a little less


class LowerBound:
    """Lower bounds on the mean job completion time (JCT) of episodes with jobs of a bank.

    They hold for every policy, also for one that knows what is hidden, in every episode of the
    simulator whose jobs all complete. Real engines may be faster than their profile says.

    Parameters
    ----------
    bank : jobs that fit the cluster.
    cluster : where they run.
    """

    def __init__(self, bank: JobBank, cluster: Cluster) -> None:
        llm = bank.prompt_tokens > 0
        calls, tools = _Calls(bank, cluster), _Tools(bank)
        way = _Way(
            bank,
            cluster,
            least=np.where(llm, calls.least, tools.duration),
            work=np.where(llm, calls.work, tools.duration),
        )
        self._path = way.path
        self._machines = {
            "engines": _Machine(cluster.engines, calls.pieces(way), bank, llm),
            "executors": _Machine(cluster.regular_executors, tools.pieces(way), bank, ~llm),
        }

    def mean_jct_s(self, jobs: ArrayLike, arrival_s: ArrayLike) -> float:
        """Seconds that no mean JCT of an episode is below: the largest of :meth:`each_s`.

        Parameters
        ----------
        jobs : int [J]
            Indices in the bank, at least one.
        arrival_s : float [J]
            When they arrive, in any order.
        """
        return max(self.each_s(jobs, arrival_s).values())

    def each_s(self, jobs: ArrayLike, arrival_s: ArrayLike) -> dict[str, float]:
        """Several lower bounds by name, seconds; arguments as of :meth:`mean_jct_s`.

        ``path``: the mean critical path at batch size 1. For ``engines`` and ``executors``, if they
        have work: ``_srpt``, the mean completion time by shortest remaining time first on a machine
        as fast as all of them; and ``_work``, the mean time of a bit of work by shortest job first,
        with the ways before it and after it.
        """
        index, seconds = np.asarray(jobs, np.int64), np.asarray(arrival_s, np.float64)
        arrival = np.rint(seconds * TICKS_PER_SECOND).astype(np.int64)
        path = self._path[index]
        totals = {"path": float(path.sum())}
        for name, machine in self._machines.items():
            found = machine.totals(index, arrival, path)
            totals |= {f"{name}_{what}": total for what, total in found.items()}
        unit = SAFE / len(index) / TICKS_PER_SECOND
        rounded = 2 * float(np.spacing(seconds.max()))  # what seconds do not say of ticks
        return {name: max(0.0, unit * total - rounded) for name, total in totals.items()}


# --- What tasks take at least ---------------------------------------------------------------------


class _Pieces(NamedTuple):
    """Parts of tasks: [T, parts]. Ticks."""

    work: IntArray  # time of an executor that is theirs alone
    head: IntArray  # from the arrival of the job to the begin of the piece, at least
    tail: IntArray  # from its end to the completion of the job, at least
    lag: FloatArray  # from when its work is done, on average, to that, at least


class _Calls:
    """LLM tasks, [T] of a bank; regular tasks have values without meaning.

    Whatever the engine does beside it, a sequence of p prompt tokens spends on each of its decode
    iterations at least ``decode + c + d held``, of which ``base / B + c + d held`` count as its
    share of the engine; and on its prefill at least ``prefill``, of which ``prefill_work`` are its.
    """

    def __init__(self, bank: JobBank, cluster: Cluster) -> None:
        latency, self._batch = cluster.latency, cluster.max_batch
        self._prompt, self._steps = bank.prompt_tokens, np.maximum(bank.output_tokens - 1, 0)
        a, self._c, self._d = latency.decode_coefficients
        p0, e, f, g = latency.prefill_coefficients
        n = self._prompt.astype(np.float64)
        tokens = SAFE * (f * n + g * n * n)
        fewest = most = np.ones_like(self._prompt)  # iterations that take the prompt
        if latency.token_budget is not None:
            fewest = -(-self._prompt // latency.token_budget)
            most = 1 + -(-(self._prompt - 1) // (latency.token_budget - self._batch + 1))
        shortest = int(max(p0, e))  # iteration with prompt tokens
        self._decode = min(a, shortest) if latency.mixed else a
        self.prefill = np.maximum(fewest * p0, fewest * e + tokens).astype(np.int64) - most
        self._prefill_lag = np.full_like(n, shortest / 2) if latency.mixed else self.prefill / 2

        # Iterations of at least `whole` and the shares below: whatever `whole` is from e to
        # max(p0, e), they add up to no more than iterations take. The most work is the best bound.
        def shares(whole: float) -> tuple[int, IntArray]:
            base = int(min(a, whole)) if latency.mixed else a
            beyond = np.maximum(tokens - most * (whole - e), 0)
            work = (SAFE * fewest * whole / self._batch + beyond).astype(np.int64) - most
            return base, np.maximum(work, 0)

        def total(found: tuple[int, IntArray]) -> float:
            base, work = found
            return float(((work + self._steps * (base / self._batch)) * (n > 0)).sum())

        wholes = {e, *(x for x in (p0, float(a)) if e < x <= p0)}
        self._base, self._prefill_work = max(map(shares, sorted(wholes)), key=total)
        self.least = self.prefill + self._time(self._steps)
        self.work = self._prefill_work + self._share(self._steps)

    def _held(self, steps: IntArray) -> IntArray:
        """Tokens held in the first iterations, summed."""
        return steps * self._prompt + steps * (steps + 1) // 2

    def _time(self, steps: IntArray) -> IntArray:
        """Ticks that the first decode iterations take at least."""
        return steps * (self._decode + self._c) + self._d * self._held(steps)

    def _share(self, steps: IntArray) -> IntArray:
        """Ticks of them that are the sequence's own."""
        return steps * self._base // self._batch + steps * self._c + self._d * self._held(steps)

    def _lag(self, begin: IntArray, end: IntArray) -> FloatArray:
        """Ticks from a share of these decode iterations, on average, to the end of the last.

        Of iterations k = 1, 2, ..., m with times t_k and shares s_k, that is the sum of
        ``t_k (s_1 + ... + s_(k-1) + s_k / 2)`` over the sum of shares.
        """
        m, d = (end - begin).astype(np.float64), float(self._d)
        held = self._c + d * (self._prompt + begin)
        time, share = self._decode + held, self._base / self._batch + held  # before d k
        one, two, three = m * (m + 1) / 2, m * (m + 1) * (2 * m + 1) / 6, (m * (m + 1) / 2) ** 2
        moment = time * share * m * m / 2 + time * d * two / 2 + d * share * (two - one / 2)
        moment += d * d * three / 2
        shares = share * m + d * one
        return SAFE * np.divide(moment, shares, out=np.zeros_like(m), where=shares > 0)

    def pieces(self, way: _Way) -> _Pieces:
        """The prefill, and ``PARTS`` of the decode iterations."""
        decoding = self._time(self._steps)
        tail = decoding + way.tail
        found = [(self._prefill_work, way.head, tail, self._prefill_lag + tail)]
        for begin, end in _parts(self._steps):
            work = np.maximum(self._share(end) - self._share(begin) - 1, 0)
            tail = decoding - self._time(end) + way.tail
            head = way.head + self.prefill + self._time(begin)
            found.append((work, head, tail, self._lag(begin, end) + tail))
        return _stacked(found)


class _Tools:
    """Regular tasks, [T] of a bank."""

    def __init__(self, bank: JobBank) -> None:
        self.duration = np.rint(bank.duration_s * TICKS_PER_SECOND).astype(np.int64)

    def pieces(self, way: _Way) -> _Pieces:
        """``PARTS`` of each."""
        found = []
        for begin, end in _parts(self.duration):
            tail = self.duration - end + way.tail
            found.append((end - begin, way.head + begin, tail, (end - begin) / 2 + tail))
        return _stacked(found)


class _Way:
    """What lies between tasks and the arrival and the completion of their jobs, at least.

    ``head`` and ``tail`` [T]: ticks from the arrival to when a task can start, and from the end of
    its stage to the completion; ``path`` [J]: the critical path.
    """

    def __init__(self, bank: JobBank, cluster: Cluster, least: IntArray, work: IntArray) -> None:
        first = bank.stage_tasks[:-1]
        llm = bank.stage_kind == Kind.LLM
        executors = np.where(llm, cluster.engines, cluster.regular_executors)
        together = np.add.reduceat(work, first) // executors
        took = np.maximum(np.maximum.reduceat(least, first), together)
        child = np.repeat(np.arange(len(took)), np.diff(bank.stage_parents))
        begins = np.repeat(bank.job_stages[:-1], np.diff(bank.job_stages))  # of the job of a stage
        parent = bank.parents + begins[child]
        head, tail = _longest(took, parent, child), _longest(took, child, parent)
        tasks = np.diff(bank.stage_tasks)
        self.head, self.tail = np.repeat(head, tasks), np.repeat(tail, tasks)
        self.path = np.maximum.reduceat(head + took + tail, bank.job_stages[:-1])


def _longest(took: IntArray, start: IntArray, end: IntArray) -> IntArray:
    """Ticks of the longest way over edges to each node, without its own."""
    way = np.zeros_like(took)
    while True:
        before = way.copy()
        np.maximum.at(way, end, (way + took)[start])
        if (way == before).all():
            return way


def _parts(count: IntArray) -> list[tuple[IntArray, IntArray]]:
    """Begin and end of ``PARTS`` of a number of iterations, or ticks."""
    share = [count // PARTS * part + count % PARTS * part // PARTS for part in range(PARTS + 1)]
    return list(pairwise(share))


def _stacked(found: Sequence[tuple[NDArray[np.number], ...]]) -> _Pieces:
    return _Pieces._make(np.stack(column, axis=1) for column in zip(*found, strict=True))


# --- The machine that does it all -----------------------------------------------------------------


class _Machine:
    """One machine as fast as several executors together, and the work that a bank has for it."""

    def __init__(
        self, speed: int, pieces: _Pieces, bank: JobBank, theirs: NDArray[np.bool_]
    ) -> None:
        keep = theirs[:, None] & (pieces.work > 0)
        job = np.broadcast_to(bank.task_job[:, None], keep.shape)[keep]
        self._speed = speed
        self._pieces = _Pieces._make(column[keep] for column in pieces)
        self._first = np.searchsorted(job, np.arange(len(bank) + 1))

    def totals(self, jobs: IntArray, arrival: IntArray, path: IntArray) -> dict[str, float]:
        """Lower bounds on the sum of JCTs in ticks; none if there is nothing to do.

        Of a job that has no work here its critical path counts.
        """
        begin, count = self._first[jobs], np.diff(self._first)[jobs]
        has = count > 0
        if not has.any():
            return {}
        rest = float(path[~has].sum())
        begin, count, arrival = begin[has], count[has], arrival[has]
        starts = np.cumsum(count) - count
        job = np.repeat(np.arange(len(count)), count)
        rows = np.arange(len(job)) + np.repeat(begin - starts, count)
        pieces = _Pieces._make(column[rows] for column in self._pieces)
        work = np.add.reduceat(pieces.work, starts)
        head, tail = (np.minimum.reduceat(column, starts) for column in (pieces.head, pieces.tail))
        lag = SAFE * np.add.reduceat(pieces.work * pieces.lag, starts) / work

        completions = _srpt(_scaled(arrival + head, self._speed), work.tolist())
        flow = (completions - sum(_scaled(arrival, self._speed))) / self._speed
        waits = _mean_waits(
            job, pieces.work, arrival[job] + pieces.head, work, arrival, self._speed
        )
        return {"srpt": flow + float(tail.sum()) + rest, "work": waits + float(lag.sum()) + rest}


def _scaled(ticks: IntArray, speed: int) -> list[int]:
    """In units of which the machine does ``speed`` a tick; they need more than 64 bits."""
    return [speed * tick for tick in ticks.tolist()]


def _srpt(release: Sequence[int], work: Sequence[int]) -> int:
    """The least sum of completion times on one machine that may interrupt.

    Shortest remaining processing time first (Schrage, "A proof of the optimality of the shortest
    remaining processing time discipline", 1968).
    """
    now = total = 0
    left: list[int] = []
    for begin, needed in [*sorted(zip(release, work, strict=True)), (NEVER * NEVER, 0)]:
        while left and now + left[0] <= begin:
            now += heappop(left)
            total += now
        if left:
            left[0] -= begin - now  # the least stays the least
        now = begin
        heappush(left, needed)
    return total


def _mean_waits(
    job: IntArray,
    work: IntArray,
    release: IntArray,
    of_job: IntArray,
    arrival: IntArray,
    speed: int,
) -> float:
    """The least sum over jobs of the mean time from arrival to a bit of work, ticks.

    A job with work W pays 1 / W for each bit and tick, so that the machine does the work that is
    there of the job with the least in all.
    """
    needed = of_job.tolist()
    left, paid = [0] * len(needed), [0] * len(needed)  # twice the sum of bits times their times
    waiting: list[tuple[int, int]] = []
    now = 0
    order = np.argsort(release, kind="stable")
    comes = [*_scaled(release[order], speed), NEVER * NEVER]
    whose, amounts = [*job[order].tolist(), 0], [*work[order].tolist(), 0]
    for begin, which, amount in zip(comes, whose, amounts, strict=True):
        while waiting and now < begin:
            first = waiting[0][1]
            done = min(left[first], begin - now)
            paid[first] += done * (2 * now + done)
            now += done
            left[first] -= done
            if left[first] == 0:
                heappop(waiting)
        now = max(now, begin)
        if left[which] == 0:
            heappush(waiting, (needed[which], which))
        left[which] += amount
    came = _scaled(arrival, speed)
    return sum(
        (p - 2 * w * r) / (2 * w * speed) for p, w, r in zip(paid, needed, came, strict=True)
    )

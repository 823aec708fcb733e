"""Measure an LLM server and fit the latency profile of its engine.

``python -m llmsched_gym.testbed.calibrate --url http://127.0.0.1:8001 --slots 4 -o mine.yaml``
writes a cluster that ``evaluate.py cluster=mine.yaml`` plays; docs/calibration.md says more. The
server must do nothing else meanwhile. Everything is seen from outside, by when tokens come:

- *how prompts share the engine*: while some sequences decode, a long prompt joins. If its first
  token comes together with one of theirs, they shared its last iteration (mixed), and the tokens
  that they got before tell into how many chunks the prompt was cut, hence the token budget. If
  theirs comes an iteration later, they had waited (exclusive).
- *decode iterations*: the gaps between tokens while so many sequences of a length decode.
- *prefills*: of prompts alone, until the first token, and of prompts that join, from the gap that
  they make.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.checks import is_whole
from llmsched_gym.cluster.calibration import (
    Measurements,
    Parser,
    add_output_options,
    checked_output,
    fit_decode,
    fit_profile,
    prefill_ms,
    write_outputs,
)
from llmsched_gym.cluster.latency import ClusterError, LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.errors import one_line
from llmsched_gym.testbed.client import Answer, Client, Rejected, Unavailable, checked_url
from llmsched_gym.testbed.clock import Clock, StolenTimeClock, WallClock
from llmsched_gym.testbed.prompts import prompt_ids

FloatArray = NDArray[np.float64]
SHORT = 16  # tokens of a prompt that is to cost little
STEPS = 32  # decode iterations of a measurement
BEFORE = 5  # tokens that others have got when a prompt joins
BATCHES, LENGTHS = 6, 8  # to measure, at most
STALL = 3.0  # times the usual gap: no iteration, but something else that happened
UNCUT_BUDGET = 2048  # of an engine that cut no prompt: what most have, if no longer one was tried


@dataclass(frozen=True)
class Calibration:
    """A profile, and what it is fitted to."""

    profile: LatencyProfile
    measured: Measurements

    def drift(self, later: Calibration) -> dict[str, float]:
        """By how much a later profile is slower: of ``decode`` and of ``prefill`` times, 0.01: 1 %.

        It is the mean over the rows that were measured here.
        """
        rows, times = self.measured, []
        for profile in (later.profile, self.profile):
            decode = profile.a + profile.c * rows.batch + profile.d * rows.kv
            times.append((decode, prefill_ms(_prefill_of(profile), rows.tokens)))
        (decode, prefill), (decode_here, prefill_here) = times
        return {
            "decode": float(np.mean(decode / decode_here)) - 1,
            "prefill": float(np.mean(prefill / prefill_here)) - 1,
        }


def calibrate(
    url: str,
    *,
    slots: int,
    model: str | None = None,
    clock: Clock | None = None,
    longest: int = 512,
    repeats: int = 2,
    name: str = "calibrated",
    kv_capacity_tokens: int | None = None,
    timeout_s: float = 120.0,
) -> Calibration:
    """Measure the engine of a server and fit its profile.

    Parameters
    ----------
    url, model, timeout_s : see :class:`Client`.
    slots : requests that the server runs at a time, at least 2.
    clock : default the wall's.
    longest : tokens of prompt and output that a request may have, at least 64, default 512; all
        slots must be able to hold as many at a time. A token budget is found if it is less.
    repeats : how often all is measured, default 2.
    name, kv_capacity_tokens : of the profile, see :func:`fit_profile`.

    Raises
    ------
    Unavailable, Rejected
        what the server did not do.
    ValueError
        for a number that is out of range, or if the server does not run so many requests at a time.
    """
    for option, value, least in (("slots", slots, 2), ("longest", longest, 64)):
        if not is_whole(value, least):
            raise ClusterError(f"{option}: {value!r} is not a whole number of at least {least}")

    async def measure() -> tuple[_Traits, Measurements]:
        time = clock or WallClock()
        async with Client(url, model=model, clock=time, timeout_s=timeout_s) as client:
            bench = _Bench(client, time, slots)
            await bench.warm_up()
            traits = await _traits(bench, longest - 2)
            return traits, await _measure(bench, traits, longest, repeats)

    try:
        traits, measured = asyncio.run(measure())
    except BaseExceptionGroup as group:  # of requests that run side by side
        raise _first(group) from None
    data = f"measured on {checked_url(url)}"
    source = {"data": data, "slots": slots, "tokens_at_most": longest}
    profile = fit_profile(
        measured,
        name=name,
        kv_capacity_tokens=kv_capacity_tokens,
        prefill="exclusive" if traits.budget is None else "mixed",
        token_budget=traits.budget,
        joins="late",
        source=source,
    )
    return Calibration(profile, measured)


def _prefill_of(profile: LatencyProfile) -> tuple[float, float, float, float]:
    return profile.p0, profile.e, profile.f, profile.g


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# --- Requests -------------------------------------------------------------------------------------


@dataclass
class _Bench:
    """A server that is measured."""

    client: Client
    clock: Clock
    slots: int
    latency_s: float = 0.0  # from sending to receiving, if nothing is computed
    requests: int = 0

    async def warm_up(self) -> None:
        """Have the first request done, which takes longer, and see how long one takes at least."""
        await self.generate([SHORT], 4)
        took = []
        for _ in range(9):
            since = self.clock.now()
            await self.client.healthy()
            took.append(self.clock.now() - since)
        self.latency_s = min(took)

    async def generate(
        self, prompts: Sequence[int], output: int, on_token: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """Send prompts of these lengths at once; ``on_token`` is told of the first one's tokens."""
        told = [on_token, *[None] * (len(prompts) - 1)]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._one(prompt, output, one))
                for prompt, one in zip(prompts, told, strict=True)
            ]
        return [task.result() for task in tasks]

    async def join(self, others: int, output: int, prompt: int) -> tuple[list[Answer], Answer]:
        """The answers to some short prompts and to one that joins when they decode."""
        decoding = asyncio.Event()

        def look(tokens: int) -> None:
            if tokens == BEFORE:
                decoding.set()

        async with asyncio.TaskGroup() as group:
            first = group.create_task(self.generate([SHORT] * others, output, look))
            await decoding.wait()
            joiner = group.create_task(self._one(prompt, 2, None))
        return first.result(), joiner.result()

    async def _one(
        self, prompt: int, output: int, on_token: Callable[[int], None] | None
    ) -> Answer:
        self.requests += 1
        answer = await self.client.generate(prompt_ids(self.requests, prompt), output, on_token)
        if len(answer.token_s) < output:
            raise Rejected(
                f"{self.client.url}: {len(answer.token_s)} events for {output} tokens, so that the "
                "time of an iteration cannot be seen; vLLM needs --stream-interval 1"
            )
        return answer


async def _joined(
    bench: _Bench, others: int, prompt: int, chunks: int = 2
) -> tuple[FloatArray, float, int]:
    """Seconds of the tokens of a sequence that decodes, and of the first token of a prompt.

    The prompt joined when the sequence, and others, decoded. The third is the number of the token
    with which the first iteration began that it can have had a part in. ``chunks`` is into how many
    it may be cut; more is tried if that is too few.
    """
    while chunks <= max(prompt, 64):
        decoding, joiner = await bench.join(others, BEFORE + 4 + chunks, prompt)
        tokens, first_s = np.array(decoding[0].token_s), joiner.first_token_s
        if tokens[-2] > first_s:
            begun = int(np.searchsorted(tokens, joiner.sent_s + bench.latency_s))
            return tokens, first_s, begun
        chunks *= 4  # the others had ended
    raise ValueError(
        f"slots: a prompt waited until others had ended: does {bench.client.url} run {bench.slots} "
        "requests at a time?"
    )


# --- How prompts share the engine -----------------------------------------------------------------


@dataclass(frozen=True)
class _Traits:
    """Tokens of a mixed iteration at most; None if prefills are exclusive."""

    budget: int | None


async def _traits(bench: _Bench, prompt: int) -> _Traits:
    """How prompts share the engine."""
    others = min(2, bench.slots - 1)
    apart: list[bool] = []
    chunks: list[int] = []
    for _ in range(5):
        tokens, first_s, begun = await _joined(bench, others, prompt, 8)
        usual = float(np.median(np.diff(tokens[:BEFORE])))
        apart.append(np.abs(tokens - first_s).min() > 0.5 * usual)
        chunks.append(_chunks(tokens, first_s, begun))
    if np.median(apart):  # mostly more than half an iteration
        return _Traits(None)
    return _Traits(await _budget(bench, others, prompt, round(float(np.median(chunks)))))


def _chunks(tokens: FloatArray, first_s: float, begun: int) -> int:
    """Into how many chunks a prompt was cut, where the last yields a token with the others'."""
    return int(np.abs(tokens - first_s).argmin()) - begun


async def _budget(bench: _Bench, others: int, prompt: int, chunks: int) -> int:
    """The token budget, if a prompt is cut into so many chunks."""
    if chunks <= 1:
        return max(UNCUT_BUDGET, prompt + others, 2 * bench.slots)

    async def fits(tokens: int) -> bool:
        """Whether so many prompt tokens are done in one iteration, beside the others' tokens."""
        found = [_chunks(*await _joined(bench, others, tokens)) for _ in range(3)]
        return bool(np.median(found) < 2)

    # Of a chunk; one more or less may have been counted.
    least, most = -(-prompt // (chunks + 1)), prompt - 1
    if chunks > 2:
        most = -(-prompt // (chunks - 2)) - 1
    for usual in [2**n for n in range(4, 20) if least <= 2**n - others <= most]:
        if await fits(usual - others) and not await fits(usual - others + 1):
            return usual
    while least < most:
        middle = (least + most + 1) // 2
        if await fits(middle):
            least = middle
        else:
            most = middle - 1
    return least + others


# --- Times ----------------------------------------------------------------------------------------


async def _measure(bench: _Bench, traits: _Traits, longest: int, repeats: int) -> Measurements:
    """Measure decode iterations and prefills, in an order that a drift does not follow.

    Batches are measured alike, but the full one as often as all others together: no engine is
    quite linear, and it is there that a busy one is most of the time.
    """
    rng = np.random.default_rng(0)
    batches = np.unique(np.linspace(1, bench.slots, min(BATCHES, bench.slots)).round().astype(int))
    full = [bench.slots] * (len(batches) - 2)
    cells = list(product((*batches.tolist(), *full), (SHORT, longest // 3, 2 * longest // 3)))
    steps = min(STEPS, longest // 3 - 4)
    others = min(2, bench.slots - 1)
    whole = longest - 2
    if traits.budget is not None:
        whole = min(whole, traits.budget - others)
    lengths = np.unique(np.geomspace(4, whole, LENGTHS).round().astype(int)).tolist()
    decode, prefill = [], []
    for _ in range(repeats):
        for batch, context in rng.permutation(cells).tolist():
            decode.append(await _decode(bench, batch, context, steps, traits))
    rows = np.array(decode)
    _, c, d = fit_decode(*rows.T)
    beside = 0.0 if traits.budget is None else c * others + d * others * (SHORT + BEFORE)
    for _ in range(repeats):
        for length in rng.permutation(lengths).tolist():
            alone = await _alone(bench, length)
            joining = [await _joining(bench, others, length, traits) for _ in range(2)]  # as most
            ms = float(np.median([alone, *(one - beside for one in joining)]))
            prefill.append((length, max(ms, 1e-3)))
    return Measurements(*rows.T, *np.array(prefill).T)


async def _decode(
    bench: _Bench, batch: int, context: int, steps: int, traits: _Traits
) -> tuple[float, float, float]:
    """Batch, tokens held and ms of the iterations in which so many sequences of a length decode."""
    iterations = 2 if traits.budget is None else -(-batch * context // (traits.budget - batch))
    answers = await bench.generate([context] * batch, steps + 2 + iterations)
    tokens = [np.array(answer.token_s) for answer in answers]
    last = max(tokens, key=lambda one: float(one[0]))  # to begin, so that all decode
    end_s = min(float(one[-1]) for one in tokens)
    times = last[last <= end_s + STALL * float(np.median(np.diff(last))) / 2]
    if len(times) <= steps // 2:
        raise ValueError(
            f"slots: of {batch} requests some waited for others: does {bench.client.url} run "
            f"{bench.slots} requests at a time?"
        )
    gaps = np.diff(times)
    usual = float(np.median(gaps))
    if usual < gaps.mean() / 2:  # tokens were noticed in bunches, of which the mean alone is right
        usual = float(gaps.max())
    held = sum(context + int((one <= times[0] + usual / 2).sum()) for one in tokens)
    kept = gaps <= STALL * usual
    kv = held + batch * np.arange(len(gaps))  # when each iteration starts
    return batch, float(kv[kept].mean()), max(1000 * float(gaps[kept].mean()), 1e-3)


async def _alone(bench: _Bench, length: int) -> float:
    """Milliseconds from when a prompt comes to an idle engine to its first token."""
    (answer,) = await bench.generate([length], 2)
    return 1000 * (answer.first_token_s - answer.sent_s - bench.latency_s)


async def _joining(bench: _Bench, others: int, length: int, traits: _Traits) -> float:
    """Milliseconds of the iteration in which a prompt is prefilled while others decode."""
    tokens, first_s, _ = await _joined(bench, others, length)
    if traits.budget is None:
        return 1000 * (first_s - float(tokens[tokens < first_s][-1]))
    last = int(np.abs(tokens - first_s).argmin())
    return 1000 * float(tokens[last] - tokens[last - 1])


# --- The command ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 with one line on standard error and nothing written."""
    parser = Parser("calibrate", description="Measure an LLM server and fit its latency profile.")
    parser.add_argument("--url", required=True, help="e.g. http://127.0.0.1:8001")
    parser.add_argument("--slots", type=int, required=True, help="requests that run at a time")
    parser.add_argument("--model", help="one of /v1/models, if there are several")
    parser.add_argument(
        "--longest", type=int, default=512, metavar="N", help="tokens of a sequence: 512"
    )
    parser.add_argument("--quick", action="store_true", help="measure all once, not twice")
    parser.add_argument(
        "--pid",
        type=int,
        help="of a local server with one computing thread: time in which that waits for a CPU does "
        "not count",
    )
    add_output_options(parser)
    options = parser.parse_args(arguments)
    try:
        name = checked_output(options.output, options.name)
        found = calibrate(
            options.url,
            slots=options.slots,
            model=options.model,
            clock=None if options.pid is None else StolenTimeClock([options.pid]),
            longest=options.longest,
            repeats=1 if options.quick else 2,
            name=name,
            kv_capacity_tokens=options.kv_capacity_tokens,
        )
        cluster = Cluster(name, found.profile, engines=1, max_batch=options.slots)
        write_outputs(cluster, found.measured, options.output, options.figure)
    except (OSError, ValueError, Unavailable) as error:
        print(f"calibrate: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

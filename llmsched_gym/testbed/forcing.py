"""How well a profile predicts each iteration of an episode on servers: teacher forcing.

Two episodes, one real and one simulated, cannot be compared task by task: after the first decision
that differs, tasks meet other neighbours. So each gap between two tokens of a task is predicted
from what its engine did at that time according to the log, and what was predicted is summed over
the task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_gym.cluster.calibration import prefill_ms
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.testbed.log import EventLog, Request

FloatArray = NDArray[np.float64]
SAME = 0.4  # of a gap: tokens closer than this come of the same iteration


@dataclass(frozen=True)
class Forced:
    """Times from the first to the last token of tasks.

    Parameters
    ----------
    task : [tasks] number in the episode, of those with 2 tokens or more.
    measured_s, predicted_s : [tasks] seconds.
    """

    task: NDArray[np.int64]
    measured_s: FloatArray
    predicted_s: FloatArray

    @property
    def errors(self) -> FloatArray:
        """[tasks] relative errors, above 0 where too much was predicted."""
        return self.predicted_s / self.measured_s - 1

    @property
    def bias(self) -> float:
        """Relative error of the sum over all tasks; NaN if there is none."""
        if not len(self.task):
            return np.nan
        return float(self.predicted_s.sum() / self.measured_s.sum()) - 1


def teacher_forced(log: EventLog, profile: LatencyProfile) -> Forced:
    """Predict the tasks of a log from what the log says of their engines.

    A request that failed counts among the neighbours alone, and so does one of which the server did
    not send each token on its own, or all at one instant of the clock.
    """
    found = []
    for engine in range(len(log.urls)):
        here = [one for one in log.requests if one.engine == engine and one.token_s]
        for request in here:
            times = np.array(request.token_s)
            whole = not request.failed and len(times) == request.output_tokens
            if not whole or times[-1] <= times[0]:  # nothing can be said of it
                continue
            ms = _gaps_ms(request, here, profile)
            found.append((request.task, times[-1] - times[0], ms.sum() / 1000))
    task, measured_s, predicted_s = np.array(found).reshape(-1, 3).T
    return Forced(task.astype(np.int64), measured_s, predicted_s)


def _gaps_ms(request: Request, here: list[Request], profile: LatencyProfile) -> FloatArray:
    """Predicted milliseconds of each gap between two tokens of a request."""
    times = np.array(request.token_s)
    gaps = np.diff(times)
    same = SAME * np.minimum(gaps, np.median(gaps))
    begin, end = times[:-1] + same, times[1:] + same  # of what is of each gap
    near = [one for one in here if one.token_s[-1] > times[0] and one.token_s[0] <= end[-1]]
    if profile.mixed:
        return _mixed_ms(begin, end, near, profile)
    return _exclusive_ms(begin, end, near, same, profile)


def _decode_ms(
    at: FloatArray, near: list[Request], profile: LatencyProfile
) -> tuple[FloatArray, FloatArray]:
    """Batches, and what each adds to an iteration that starts then: ``c b + d kv``."""
    batch, kv = np.zeros(len(at)), np.zeros(len(at))
    for one in near:
        tokens = np.searchsorted(one.token_s, at)
        decoding = (tokens > 0) & (tokens < len(one.token_s))
        batch += decoding
        kv += decoding * (one.prompt_tokens + tokens)
    return batch, profile.c * batch + profile.d * kv


def _mixed_ms(
    begin: FloatArray, end: FloatArray, near: list[Request], profile: LatencyProfile
) -> FloatArray:
    """Each gap is an iteration, with the prompts in it that have their first token at its end.

    What of them is above the token budget was done in the iterations before.
    """
    assert profile.token_budget is not None
    batch, decode = _decode_ms(begin, near, profile)
    prompts = np.zeros(len(begin))
    for one in near:
        prompts += one.prompt_tokens * ((one.token_s[0] > begin) & (one.token_s[0] <= end))
    for gap in range(len(prompts) - 1, 0, -1):
        above = max(0.0, prompts[gap] - (profile.token_budget - batch[gap]))
        prompts[gap] -= above
        prompts[gap - 1] += above
    prompts = np.minimum(prompts, profile.token_budget - batch)
    return np.where(prompts > 0, _prefill_ms(profile, prompts), profile.a) + decode


def _exclusive_ms(
    begin: FloatArray,
    end: FloatArray,
    near: list[Request],
    same: FloatArray,
    profile: LatencyProfile,
) -> FloatArray:
    """Each gap is a decode iteration, before it the prefills whose first tokens come in the gap."""
    ms = profile.a + _decode_ms(end - 2 * same, near, profile)[1]
    first_s = np.array([one.token_s[0] for one in near])
    prompt = np.array([one.prompt_tokens for one in near])
    order = np.argsort(first_s)
    first_s, prompt = first_s[order], prompt[order]
    for gap in range(len(ms)):
        inside = (first_s > begin[gap]) & (first_s <= end[gap])
        if inside.any():  # those that join together have their first tokens together
            groups = np.cumsum(np.diff(first_s[inside], prepend=-np.inf) > same[gap]) - 1
            ms[gap] += _prefill_ms(profile, np.bincount(groups, prompt[inside])).sum()
    return ms


def _prefill_ms(profile: LatencyProfile, tokens: ArrayLike) -> FloatArray:
    return prefill_ms((profile.p0, profile.e, profile.f, profile.g), tokens)

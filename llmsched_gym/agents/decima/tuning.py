"""Tuning what Decima has learnt: exploring with preferences instead of actions.

Sehnke, Osendorfer, Rückstieß, Graves, Peters and Schmidhuber, "Parameter-exploring policy
gradients", Neural Networks 23(4), 2010, with symmetric samples.

PPO draws every action for itself. Of the thousands in an episode those drawn one way and those
drawn the other way cancel, so that episodes hardly differ in how much they prefer, say, stages with
few tasks; they differ by a percent of their JCT all the same, as all schedules do that differ
anywhere. What a preference is worth shows in fewer episodes if it is held through each of them. So
replicas of a group, which have the same jobs, take the likeliest actions of networks that differ in
their preferences, the weights of the linear part of scores: half of them in one direction from
those that are tuned, the others in the opposite one.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

from llmsched_gym.agents.decima.network import GraphNetwork
from llmsched_gym.agents.decima.options import DecimaOptions
from llmsched_gym.agents.decima.rollout import (
    Collect,
    Task,
    decisions_of,
    job_seconds,
    noise_of,
    outcome,
    weights_of,
)
from llmsched_gym.agents.learning.course import Learner

FAR = 2.5  # deviations, beyond which a difference counts no more


def tune(
    learner: Learner[GraphNetwork],
    collect: Collect,
    seed: int,
    options: DecimaOptions,
    environments: int = 1,
) -> dict[str, float]:
    """Play whole episodes with other preferences, and go where they were better; returns what
    happened, for the logs.

    Where there are several ``environments``, with as many groups in each, the way is the mean of
    those that are better in each of them.
    """
    number = learner.iteration
    begin = time.perf_counter()
    task = Task(number, None, weights_of(learner.network), noise=options.tuning_noise)
    rollouts = collect(task)
    collected = time.perf_counter()
    preference = learner.network.preference()
    noise = noise_of(seed, number, range(options.groups), options.replicas, len(preference))
    kinds = np.split(job_seconds(rollouts), environments), np.split(noise, environments)
    uphill = np.mean([ascent(*one, options.replicas) for one in zip(*kinds, strict=True)], axis=0)
    done = (number - options.iterations) / options.tuning_iterations
    rate = options.tuning_rate * (1 - 0.9 * done)
    preference += rate * torch.from_numpy(uphill).to(preference)
    return {
        **outcome(rollouts),
        "learning_rate": rate,
        "gradient": float(np.linalg.norm(uphill)),
        **learner.count(decisions_of(rollouts), begin, collected),
    }


def ascent(
    cost: NDArray[np.float64], noise: NDArray[np.float64], replicas: int
) -> NDArray[np.float64]:
    """The direction in which costs fall, from episodes in pairs of opposite noise.

    Parameters
    ----------
    cost : [N], of the episodes; those of a group, with the same jobs, side by side.
    noise : [N, size], in standard deviations.

    Returns
    -------
    float64 [size]: the mean over the pairs of their noise, times how much less the first cost than
    the second, relative to the size of the group's mean and in deviations of such differences.
    """
    level = np.abs(cost.reshape(-1, replicas).mean(axis=1))
    level[level == 0] = 1.0  # rewards may be of any sign, and all 0
    relative = cost / np.repeat(level, replicas)
    gain = relative[1::2] - relative[::2]
    deviation = np.sqrt(np.square(gain).mean()) or 1.0
    gain = np.clip(gain / deviation, -FAR, FAR)
    return np.asarray((gain[:, None] * noise[::2]).mean(axis=0), np.float64)

"""Tune the exponent of the policy weighted_fair on training seeds, as Decima does: a sweep.

    python benchmarks/tune_weighted_fair.py [--loads 0.9 1.3 2.0] [--episodes 20]

Prints the mean JCT in seconds for each exponent and load, and the mean over the loads of its ratio
to that of exponent 0, which is fair; the best exponent has the least mean ratio. Seeds count from
1000, results use seeds below.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.agents.base import Policy, make_policy
from llmsched_gym.env.scheduling import LLMSchedEnv

FIRST_SEED = 1000


def mean_jct(env: LLMSchedEnv, policy: Policy, episodes: int) -> float:
    """Mean JCT in seconds over the jobs of the episodes with the first training seeds."""
    jct = []
    for seed in range(FIRST_SEED, FIRST_SEED + episodes):
        observation, _ = env.reset(seed=seed)
        policy.reset(seed)
        over = False
        while not over:
            observation, _, over, _, _ = env.step(int(np.asarray(policy.act(observation))))
        jct.append(env.job_table()["jct_s"].mean())
    return float(np.mean(jct))


def sweep(
    alphas: NDArray[np.float64], loads: list[float], workload: str, num_jobs: int, episodes: int
) -> NDArray[np.float64]:
    """Mean JCT relative to fair [alphas, loads]; prints each row of the table when it is there."""
    envs = [LLMSchedEnv(workload, num_jobs=num_jobs, load=load) for load in loads]
    fair = np.array([mean_jct(env, make_policy("fair"), episodes) for env in envs])
    print("| alpha | " + " | ".join(f"load {load:g}" for load in loads) + " | ratio to fair |")
    print("|---|" + "---|" * (len(loads) + 1))
    rows = []
    for alpha in alphas:
        policy = make_policy("weighted_fair", alpha=alpha)
        rows.append([mean_jct(env, policy, episodes) for env in envs])
        numbers = " | ".join(f"{one:.1f}" for one in rows[-1])
        print(f"| {alpha:.1f} | {numbers} | {np.mean(rows[-1] / fair):.3f} |", flush=True)
    return np.array(rows) / fair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--least", type=float, default=-2.0)
    parser.add_argument("--most", type=float, default=2.0)
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.9, 1.3, 2.0])
    parser.add_argument("--workload", default="mixed")
    parser.add_argument("--num-jobs", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=20)
    options = parser.parse_args()
    steps = round((options.most - options.least) / options.step)
    alphas = np.round(options.least + options.step * np.arange(steps + 1), 10)
    ratios = sweep(alphas, options.loads, options.workload, options.num_jobs, options.episodes)
    print(f"\nbest alpha: {alphas[ratios.mean(axis=1).argmin()]:.1f}")


if __name__ == "__main__":
    main()

"""How large observations are by ``max_stages``, what a replay buffer costs, and what is lost.

    python benchmarks/observation_size.py --workload mixed --load 1.3

A buffer of B transitions keeps 2 B observations (before and after); flattened to float32 only the
tables that a network reads count. Lost is what a policy cannot see: jobs without a row.
"""

from __future__ import annotations

import argparse

import numpy as np

from llmsched_gym.agents import make_policy
from llmsched_gym.env import CLUSTER, LLMSchedEnv

READ = ("stages", "jobs", "cluster", "stage_job", "action_mask")  # of the examples
BUFFER = 100_000


def sizes(env: LLMSchedEnv) -> tuple[int, int]:
    """Bytes of an observation as it is, and numbers of its tables flattened."""
    seen, _ = env.reset(seed=0)
    whole = sum(table.nbytes for table in seen.values())
    return whole, sum(seen[name].size for name in READ)


def played(env: LLMSchedEnv, episodes: int) -> tuple[float, float]:
    """Share of decisions at which jobs had no row, and the mean JCT in seconds, of SRTF."""
    policy, hidden, jct_s = make_policy("srtf"), [], []
    for seed in range(episodes):
        seen, info = env.reset(seed=seed)
        over = False
        while not over:
            hidden.append(seen["cluster"][CLUSTER["jobs_not_shown"]] > 0)
            seen, _, terminated, truncated, info = env.step(policy.act(seen))
            over = terminated or truncated
        jct_s.append(info["mean_jct_s"])
    return float(np.mean(hidden)), float(np.mean(jct_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="mixed")
    parser.add_argument("--load", type=float, default=1.3)
    parser.add_argument("--episodes", type=int, default=8)
    args = parser.parse_args()
    print("max_stages max_jobs   bytes buffer,MB  numbers buffer,MB  not all shown  SRTF JCT,s")
    for stages, jobs in ((32, 16), (64, 16), (64, 32), (128, 32), (256, 64), (None, None)):
        env = LLMSchedEnv(args.workload, load=args.load, max_stages=stages, max_jobs=jobs)
        whole, flat = sizes(env)
        share, jct_s = played(env, args.episodes)
        megabytes = [2 * BUFFER * one / 1e6 for one in (whole, 4 * flat)]
        print(
            f"{env.max_stages:10} {env.max_jobs:8} {whole:7} {megabytes[0]:9,.0f}"
            f" {flat:8} {megabytes[1]:9,.0f} {share:14.1%} {jct_s:11.2f}"
        )


if __name__ == "__main__":
    main()

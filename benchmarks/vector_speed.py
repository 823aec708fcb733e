"""Steps/s of many clusters at once, beside Gymnasium's SyncVectorEnv of single ones.

    python benchmarks/vector_speed.py [--num-envs 1 16 64 256] [--beliefs none bayes] [--threads 2]

Random legal actions, chosen outside the time that is measured; observations, rewards, infos and the
episodes that begin meanwhile are inside. A step of N clusters counts as N steps. Both kinds of
environment copy their observations, as is Gymnasium's default.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

import llmsched_gym  # noqa: F401 (registers the environment)

VECTOR_BARS = {("none", 64): 200_000, ("bayes", 64): 80_000}  # steps/s


def measure(env: VectorEnv[Any, Any, Any], steps: int, warm_up: int) -> float:
    """Steps/s of all clusters together, after ``warm_up`` vector steps."""
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    seconds = 0.0
    for number in range(warm_up + steps):
        mask = observation["action_mask"]
        actions = (rng.random(mask.shape, np.float32) * mask).argmax(axis=1)
        begin = time.perf_counter()
        observation, *_ = env.step(actions)
        if number >= warm_up:
            seconds += time.perf_counter() - begin
    env.close()
    return steps * env.num_envs / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--beliefs", nargs="+", default=["none", "bayes"])
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    parser.add_argument("--steps", type=int, default=200_000, help="of all clusters together")
    parser.add_argument("--workload", default="mixed")
    parser.add_argument("--max-stages", type=int, default=256)
    options = parser.parse_args()
    for belief in options.beliefs:
        settings: dict[str, Any] = {
            "workload": options.workload,
            "num_jobs": 100,
            "load": 1.3,
            "max_stages": options.max_stages,
            "belief": belief,
        }
        for count in options.num_envs:
            steps, warm_up = options.steps // count, 1500  # until episodes are spread out
            ours = measure(
                gymnasium.make_vec(
                    "LLMSched-v0", num_envs=count, threads=options.threads, **settings
                ),
                steps,
                warm_up,
            )
            sync = measure(
                gymnasium.make_vec(
                    "LLMSched-v0", num_envs=count, vectorization_mode="sync", **settings
                ),
                max(1, steps // 10),
                warm_up // 10,
            )
            bar = VECTOR_BARS.get((belief, count))
            verdict = "" if bar is None else f"  bar {bar:,}: {'met' if ours >= bar else 'missed'}"
            print(
                f"belief={belief:<6} N={count:<4} {ours:10,.0f} steps/s   "
                f"SyncVectorEnv {sync:8,.0f} ({ours / sync:.1f} x){verdict}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Steps/s of many clusters at once, beside Gymnasium's SyncVectorEnv of single ones.

    python benchmarks/vector_speed.py [--num-envs 1 16 64 256] [--threads 2] [--rounds 3]

Random legal actions, chosen outside the time that is measured; observations, rewards, infos and the
episodes that begin meanwhile are inside. A step of N clusters counts as N steps. Both kinds of
environment copy their observations, as is Gymnasium's default.

What a belief costs is told by the ratio to belief=none, with the costly columns (the Gittins index
and the uncertainty reduction R) and without them. The three are measured by turns, so that whatever
else the machine does slows all of them down.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

import llmsched_gym  # noqa: F401 (registers the environment)

BELIEFS: dict[str, dict[str, Any]] = {
    "none": {"belief": "none"},
    "bayes, columns=[]": {"belief": "bayes", "columns": []},
    "bayes": {"belief": "bayes"},
}
BARS = {"bayes, columns=[]": 0.4, "bayes": 0.3}  # of the steps/s of belief=none, at 64 clusters
BAR_AT = 64
WARM_UP = 1500  # vector steps until episodes are spread out
TURNS = 10  # of each belief in a round


class Player:
    """Plays an environment with random legal actions, and counts seconds."""

    def __init__(self, env: VectorEnv[Any, Any, Any], warm_up: int) -> None:
        self.env = env
        self.rng = np.random.default_rng(0)
        self.observation: dict[str, NDArray[Any]] = env.reset(seed=0)[0]
        self.play(warm_up)

    def play(self, steps: int) -> float:
        """The seconds of so many vector steps."""
        seconds = 0.0
        for _ in range(steps):
            mask = self.observation["action_mask"]
            actions = (self.rng.random(mask.shape, np.float32) * mask).argmax(axis=1)
            begin = time.perf_counter()
            self.observation, *_ = self.env.step(actions)
            seconds += time.perf_counter() - begin
        return seconds


def compare(count: int, steps: int, rounds: int, options: dict[str, Any], threads: Any) -> None:
    """Print the steps/s of ``count`` clusters with each belief."""
    vector = max(1, steps // count // TURNS)  # steps of a turn
    ours = {
        name: Player(
            gymnasium.make_vec("LLMSched-v0", num_envs=count, threads=threads, **options, **belief),
            WARM_UP,
        )
        for name, belief in BELIEFS.items()
    }
    for number in range(rounds):
        seconds = dict.fromkeys(BELIEFS, 0.0)
        for _ in range(TURNS):
            for name, player in ours.items():
                seconds[name] += player.play(vector)
        for name in BELIEFS:
            ratio = seconds["none"] / seconds[name]
            bar = BARS.get(name) if count == BAR_AT else None
            verdict = "" if bar is None else f", bar {bar}: {'met' if ratio >= bar else 'missed'}"
            print(
                f"N={count:<4} round {number + 1}  belief={name:<17} "
                f"{vector * TURNS * count / seconds[name]:10,.0f} steps/s, "
                f"{ratio:.2f} of none{verdict}",
                flush=True,
            )
    for player in ours.values():
        player.env.close()


def beside_sync(count: int, steps: int, options: dict[str, Any]) -> None:
    """Print the steps/s of as many single environments in Gymnasium's SyncVectorEnv."""
    for name in ("none", "bayes"):
        env = gymnasium.make_vec(
            "LLMSched-v0", num_envs=count, vectorization_mode="sync", **options, **BELIEFS[name]
        )
        vector = max(1, steps // count // 10)
        seconds = Player(env, WARM_UP // 10).play(vector)
        speed = vector * count / seconds
        print(f"N={count:<4} SyncVectorEnv, belief={name:<6} {speed:8,.0f} steps/s", flush=True)
        env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    parser.add_argument("--steps", type=int, default=200_000, help="of all clusters together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sync", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--workload", default="mixed")
    parser.add_argument("--max-stages", type=int, default=256)
    given = parser.parse_args()
    options = {
        "workload": given.workload,
        "num_jobs": 100,
        "load": 1.3,
        "max_stages": given.max_stages,
    }
    for count in given.num_envs:
        compare(count, given.steps, given.rounds, options, given.threads)
        if given.sync:
            beside_sync(count, given.steps, options)


if __name__ == "__main__":
    main()

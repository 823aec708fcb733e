"""minari: decisions of a policy that ships, recorded as a data set for offline learning.

python examples/minari_record.py

Data sets are kept where MINARI_DATASETS_PATH says, else in ~/.minari.
"""

from __future__ import annotations

import gymnasium
import minari
from minari.data_collector import EpisodeBuffer

import llmsched_gym  # noqa: F401 (registers the id)
from llmsched_gym.agents import make_policy

NAME = "llmsched/planning/srtf-v0"
EPISODES = 5
SIZES = {"workload": "planning", "num_jobs": 20, "load": 2.0, "max_stages": 64}


def record(seed: int, env: gymnasium.Env) -> EpisodeBuffer:
    """An episode; ``minari.DataCollector`` does the same, and needs jax."""
    policy = make_policy("srtf")
    policy.reset(seed)
    observation, _ = env.reset(seed=seed)
    seen = {name: [table] for name, table in observation.items()}
    kept = EpisodeBuffer(id=seed, seed=seed, observations=seen, actions=[])
    over = False
    while not over:
        action = policy.act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        for name, table in observation.items():
            seen[name].append(table)
        kept.actions.append(action)
        kept.rewards.append(reward)
        kept.terminations.append(terminated)
        kept.truncations.append(truncated)
        over = terminated or truncated
    return kept


def main() -> minari.MinariDataset:
    """Record episodes, and read the first one."""
    env = gymnasium.make("LLMSched-v0", **SIZES)
    episodes = [record(seed, env) for seed in range(EPISODES)]
    if NAME in minari.list_local_datasets():
        minari.delete_dataset(NAME)
    about = {"algorithm_name": "srtf", "description": "SRTF on planning", "author": "me"}
    minari.create_dataset_from_buffers(NAME, episodes, env=env, **about)
    dataset = minari.load_dataset(NAME)
    print(f"{dataset.total_episodes} episodes, {dataset.total_steps} decisions: {NAME}")
    print(f"return of the first: {dataset[0].rewards.sum():.0f}")
    return dataset


if __name__ == "__main__":
    main()

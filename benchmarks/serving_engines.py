"""What a serving engine changes: mean JCT of every policy, the same jobs at the same times.

    python benchmarks/serving_engines.py [--serving vllm sglang] [--token-budget 8192]

Prints a row per cluster and workload: by how many percent the mean JCT of each policy is longer
(shorter: negative) than on engines that are ``ideal``, with the 95 % bootstrap interval over
episodes, paired. The rate of arrivals is that of load 1.3 on ideal engines throughout: on engines
with a mixed prefill the same load means more jobs per second.
"""

from __future__ import annotations

import argparse
from typing import Any

from llmsched_gym.cluster import Cluster, load_cluster
from llmsched_gym.env.scenario import Scenario
from llmsched_gym.evaluation import compare
from llmsched_gym.metrics import reduction
from llmsched_gym.workload import Workload, make_workload

LOAD = 1.3
WORKLOADS = ("mixed", "planning", "chain_like")
POLICIES = ("fcfs", "fair", "sjf", "srtf", "llmsched_priced")
MEASURED = "h100_llama2_70b_tp4_measured"
CLUSTERS: dict[str, tuple[str, dict[str, Any]]] = {  # where slots or tools are scarce, by turns
    "A100 7B, 4 engines, 16 tools": ("a100_llama2_7b", {}),
    "A100 7B, 1 engine, 32 tools": ("a100_llama2_7b", {"engines": 1, "regular_executors": 32}),
    "H100 70B, 4 engines, 16 tools": (MEASURED, {}),
    "H100 70B, 2 engines, 64 tools": (MEASURED, {"engines": 2, "regular_executors": 64}),
}


def mean_jcts(
    workload: Workload, cluster: Cluster, rate: float, episodes: int, processes: int
) -> dict[str, Any]:
    """Of each policy, and of the clairvoyant reference: float64 [episodes], seconds."""
    result = compare(
        POLICIES,
        workload=workload,
        cluster=cluster,
        arrival_rate=rate,
        episodes=episodes,
        processes=processes,
    )
    table = result.episodes.pivot_table(index="episode", columns="policy", values="mean_jct_s")
    return {str(policy): table[policy].to_numpy() for policy in table}


def change(after: Any, before: Any) -> str:
    """In percent, with its interval; for 2 or more episodes."""
    less = reduction(after, before)
    value, low, high = (
        round(-100 * (one or 0), 1) + 0.0 for one in (less.value, less.high, less.low)
    )
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serving", nargs="+", default=["vllm", "sglang"])
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    columns = (*POLICIES, "srtf_oracle")
    print("| serving | cluster | workload | " + " | ".join(columns) + " |")
    print("|---|---|---|" + "---|" * len(columns))
    workloads = {name: make_workload(name) for name in WORKLOADS}
    for label, (preset, sizes) in CLUSTERS.items():
        ideal = load_cluster(preset, **sizes)
        for name, workload in workloads.items():
            rate = Scenario(workload=workload, cluster=ideal, belief="none", load=LOAD).rate
            play = (rate, options.episodes, options.processes)
            before = mean_jcts(workload, ideal, *play)
            for serving in options.serving:
                budget = options.token_budget
                engines = load_cluster(ideal, serving=serving, token_budget=budget)
                after = mean_jcts(workload, engines, *play)
                row = " | ".join(change(after[policy], before[policy]) for policy in columns)
                print(f"| {serving} | {label} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()

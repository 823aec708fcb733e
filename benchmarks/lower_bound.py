"""How tight the lower bound on the mean JCT is, and what it takes.

    python benchmarks/lower_bound.py

Prints a row per workload, cluster and load: the mean lower bound, which of its kinds it is most
often, the mean JCT of policies over it, that of the clairvoyant reference being the best that is
known; and milliseconds that the bound of an episode takes, after it was prepared once.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any

from llmsched_gym.cluster import Cluster, LowerBound, load_cluster
from llmsched_gym.evaluation import Comparison, compare
from llmsched_gym.workload import Workload, make_workload

POLICIES = ("fcfs", "sjf", "resource_srtf")
REFERENCES = ["srtf_oracle", "srtf_own_oracle"]
SCARCE = {"engines": 1, "regular_executors": 32}
CASES: list[tuple[str, str, dict[str, Any], float]] = [
    *(("chain_like", "1 engine, 32 tools", SCARCE, load) for load in (0.5, 0.9, 1.3, 2.0)),
    ("planning", "1 engine, 32 tools", SCARCE, 1.3),
    ("predefined", "1 engine, 32 tools", SCARCE, 1.3),
    ("chain_like", "1 engine, 32 tools, vLLM", SCARCE | {"serving": "vllm"}, 1.3),
    ("mixed", "4 engines, 16 tools", {}, 1.3),
    ("planning", "4 engines, 16 tools", {}, 1.3),
]


def kinds(result: Comparison, workload: Workload, cluster: Cluster) -> tuple[str, float]:
    """The kind of bound that is the largest in most episodes, and milliseconds of an episode."""
    lower, largest = LowerBound(workload.bank, cluster), Counter[str]()
    played = [one for one in result.played if one.policy == POLICIES[0]]
    begin = time.perf_counter()
    for one in played:
        each = lower.each_s(one.jobs["bank_job"], one.jobs["arrival_s"])
        largest[max(each, key=lambda name: each[name])] += 1
    return largest.most_common(1)[0][0], 1000 * (time.perf_counter() - begin) / len(played)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    columns = (*POLICIES, "clairvoyant")
    print(f"| workload | cluster | load | bound, s | kind | {' | '.join(columns)} | ms |")
    print("|---|---|---|" + "---|" * (len(columns) + 3))
    for name, label, sizes, load in CASES:
        workload, cluster = make_workload(name), load_cluster("a100_llama2_7b", **sizes)
        result = compare(
            POLICIES,
            workload=workload,
            cluster=cluster,
            load=load,
            num_jobs=options.jobs,
            episodes=options.episodes,
            processes=options.processes,
        )
        kind, ms = kinds(result, workload, cluster)
        table = result.summary.set_index("policy")
        times = [*table["x_bound"][list(POLICIES)], table["x_bound"][REFERENCES].min()]
        row = " | ".join(f"{one:.2f}" for one in times)
        place = f"{name} | {label} | {load:g} | {table['bound_s'].iloc[0]:.1f}"
        print(f"| {place} | {kind} | {row} | {ms:.0f} |", flush=True)


if __name__ == "__main__":
    main()

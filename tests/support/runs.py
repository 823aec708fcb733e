"""Training runs of a few seconds, what they have learnt, and how they are interrupted."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmsched_gym.agents.base import Policy
from llmsched_gym.agents.learning import checkpoint
from llmsched_gym.agents.learning.course import BEST, STATE
from llmsched_gym.agents.learning.run import Training
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.mixes import make_workload

ENVIRONMENT: dict[str, Any] = {
    "workload": make_workload("task_automation", jobs_per_application=40),
    "cluster": load_cluster("a100_llama2_7b", engines=1, max_batch=4),
    "num_jobs": 8,
    "load": 2.0,
    "belief": "prior",
}
CLOCKS = ("seconds", "decisions_per_s", "collect_s", "update_s")


def training(folder: Path, **changed: Any) -> Training:
    given: dict[str, Any] = {
        "environment": ENVIRONMENT,
        "seed": 0,
        "workers": 1,
        "rollout": "threads",
        "ray_address": None,
        "minutes": None,
        "checkpoint_minutes": 5.0,
        "resume": False,
        "folder": folder,
        "logger": "csv",
        "settings": {"seed": changed.get("seed", 0), "agent": {"clip": 0.2}},
    }
    return Training(**(given | changed))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open() as lines:
        return list(csv.DictReader(lines))


def learnt(folder: Path, kind: str) -> dict[str, Any]:
    """All that has to be the same in runs that are: nothing that a clock tells."""
    state, meta = checkpoint.load(folder / STATE, f"{kind} training")
    best, about = checkpoint.load(folder / BEST, kind)
    return {
        "state": {name: tensor.tolist() for name, tensor in state.items()},
        "counters": {k: v for k, v in meta.items() if k != "seconds"},
        "best": {name: tensor.tolist() for name, tensor in best.items()},
        "best_jct_s": about["held_out_jct_s"],
        "rows": [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows(folder)],
        "held_out": (folder / "held_out.csv").read_text(),
    }


def stopped(
    function: Callable[..., Any], call: int, error: type[BaseException], when: str
) -> Callable[..., Any]:
    """The function, but for its n-th call, before or after which it raises."""
    calls = 0

    def run(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            raise error
        result = function(*arguments, **named)
        if calls == call:
            raise error
        return result

    return run


def finish(policy: Policy, env: LLMSchedEnv) -> None:
    """Play an episode to its end; a strict environment takes offence at illegal actions."""
    seen, _ = env.reset(seed=0)
    over = False
    while not over:
        action = policy.act(seen)
        assert isinstance(action, int)
        seen, _, over, _, _ = env.step(action)
    assert np.isfinite(env.job_table()["jct_s"]).all()

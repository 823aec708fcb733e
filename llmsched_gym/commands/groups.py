"""The groups of the Hydra configuration, filled from the registries.

There is no file per policy, workload, cluster preset or belief: whatever is registered can be named
on the command line, with its options and their defaults, and with types where they are written
below. An option that a group does not have is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from llmsched_gym.agents.base import POLICIES, policy_options
from llmsched_gym.agents.learning.custom import CUSTOM, DEFAULTS
from llmsched_gym.agents.learning.registry import LEARNERS
from llmsched_gym.agents.learning.run import ROLLOUTS
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import CLUSTERS
from llmsched_gym.commands.settings import CALIBRATED
from llmsched_gym.env.named import SCENARIOS, NamedScenario
from llmsched_gym.env.scenario import BELIEFS
from llmsched_gym.workload.mixes import DESCRIBED, WORKLOADS


@dataclass
class WorkloadOptions:
    """When jobs arrive."""

    name: str = MISSING
    load: float = 1.3  # offered to the LLM slots; 1 fills them
    arrival_rate: float | None = None  # jobs/s, instead of the load
    # poisson (null), interrupted_poisson, recorded or burst (all at once); null: see also replay
    arrivals: str | None = None
    arrivals_path: str | None = None  # the CSV file of recorded arrivals
    arrivals_column: str | None = None  # its column of timestamps
    prompt_scale: float = 1.0  # times the prompt tokens of every LLM task
    output_scale: float = 1.0  # times its output tokens
    duration_scale: float = 1.0  # times the seconds of every tool
    past_jobs: int | None = None  # of each application, that beliefs are fitted on; null: all
    past_mix: str | None = None  # the generated workload that they are of; null: this one
    past_token_scale: float = 1.0  # times their tokens, prompts and outputs, and theirs alone
    on_bad_job: str = "error"  # skip: leave out jobs that are malformed or too large, with a note


@dataclass
class GeneratedJobs(WorkloadOptions):
    """Jobs of the paper's applications."""

    jobs_per_application: int = 500  # generated, for episodes to draw from


@dataclass
class DescribedJobs(GeneratedJobs):
    """Jobs of an application of one's own."""

    path: str = MISSING  # a YAML file: docs/bring_your_own.md


@dataclass
class TracedJobs(WorkloadOptions):
    """Real jobs."""

    path: str | None = None  # a JSONL file (or .jsonl.gz) or a folder of them
    train_path: str | None = None  # past jobs; without it a part of those at path
    training: bool = False  # draw episodes from past jobs: for train.py
    applications: list[str] | None = None  # null: all
    replay: bool = False  # in the order of the file, each job at its own recorded arrival


@dataclass
class ClusterOptions:
    """What jobs run on; what is null is the preset's own."""

    name: str = MISSING
    engines: int | None = None  # LLM engines
    max_batch: int | None = None  # slots per engine
    regular_executors: int | None = None  # of tools
    serving: str | None = None  # vllm, sglang, tensorrt_llm, llama_cpp or ideal: traits of engines
    token_budget: int | None = None  # of an iteration, where prompts share those that decode


@dataclass
class CustomCluster(ClusterOptions):
    """A cluster in a file laid out like the presets."""

    path: str = MISSING  # a YAML file: docs/calibration.md


@dataclass
class TestbedOptions:
    """LLM servers, each of them an engine: see docs/testbed.md."""

    url: Any = MISSING  # of the server, such as http://127.0.0.1:8001, or a list of them
    slots: int = MISSING  # requests that each server runs at once
    model: str | None = None  # null: the only one that a server has
    timeout_s: float = 120.0  # of a request
    retries: int = 5  # of a request that fails, before the run does
    tools: str = "sleep"  # what regular tasks are; process: processes that sleep
    pids: list[int] | None = None  # of local servers: time stands still while they have no CPU


@dataclass
class RolloutOptions:
    """Where train.py collects episodes."""

    name: str = MISSING
    num_workers: int = 2  # results depend on the number, by rounding, but not on the place


def _with_name(settings: type[Any]) -> type[Any]:
    """A dataclass as the options of a group."""
    known = [(field.name, field.type, field.default) for field in fields(settings)]
    return make_dataclass(f"{settings.__name__}Options", [("name", str, MISSING), *known])


BeliefOptions = _with_name(BeliefSettings)
GLOBAL = (
    "backend",
    "scenario",
)  # groups whose choices stand beside the others, under names of their own


def register_groups(choices: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Put groups and their choices, by default those of evaluate.py, into Hydra's store."""
    for name, options in (choices or groups()).items():
        ConfigStore.instance().repo.pop(name, None)  # of another command in this process
        for choice, node in options.items():
            package = "_global_" if name in GLOBAL else None
            ConfigStore.instance().store(group=name, name=choice, node=node, package=package)


def groups() -> dict[str, dict[str, Any]]:
    """The choices of each group of evaluate.py, with their options."""
    policies = {name: {"name": name} | policy_options(policy) for name, policy in POLICIES.items()}
    workloads = {name: GeneratedJobs(name=name) for name in WORKLOADS}
    clusters = {name: ClusterOptions(name=name) for name in CLUSTERS}
    beliefs = {name: BeliefOptions(name=name) for name in BELIEFS}
    return {
        "policy": policies | {"custom": {"name": "custom", "path": MISSING}},
        "workload": workloads
        | {"traces": TracedJobs(name="traces"), DESCRIBED: DescribedJobs(name=DESCRIBED)},
        "cluster": clusters
        | {"custom": CustomCluster(name="custom"), CALIBRATED: ClusterOptions(name=CALIBRATED)},
        "belief": beliefs | {"none": {"name": "none"}},
        "scenario": {name: _scenario(name, one) for name, one in SCENARIOS.items()},
        "backend": {
            "simulator": {},
            "testbed": {
                "defaults": [{"override /cluster": CALIBRATED}],
                "testbed": TestbedOptions(),
            },
        },
    }


def _scenario(name: str, one: NamedScenario) -> dict[str, Any]:
    """What a scenario sets; what the command line sets comes after it."""
    sizes = {"engines": one.engines, "regular_executors": one.regular_executors}
    return {
        "defaults": [{"override /workload": one.workload}],
        "scenario": name,
        "workload": {"load": one.load, "arrivals": one.arrivals},
        "cluster": sizes,
        "num_jobs": one.num_jobs,
    }


def training_groups() -> dict[str, dict[str, Any]]:
    """The choices of each group of train.py, with their options."""
    shared = groups()
    del shared["cluster"][CALIBRATED]
    agents = {name: _with_name(one.options)(name=name) for name, one in LEARNERS.items()}
    return {
        "agent": agents | {CUSTOM: {"name": CUSTOM, "path": MISSING} | DEFAULTS},
        **{name: shared[name] for name in ("workload", "cluster", "belief", "scenario")},
        "rollout": {name: RolloutOptions(name=name) for name in ROLLOUTS},
    }

"""Named scenarios: the fixed tasks of the benchmark suite, each with a name and a reason.

``gymnasium.make("LLMSched-v0", scenario="fact_checking")``, ``scenario=fact_checking`` of the
commands. A scenario says what arrives, how often, how many jobs and on which cluster; options given
beside it replace its own, and then it is another task than that of the suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.env.vector import LLMSchedVectorEnv
from llmsched_gym.workload.inputs import unknown
from llmsched_gym.workload.mixes import make_workload

SUITE = "v1"  # its scenarios never change; other ones are another version
PRESET = "a100_llama2_7b"


@dataclass(frozen=True)
class NamedScenario:
    """A task of the suite.

    Attributes
    ----------
    tests : what it asks of a scheduler, in one line.
    workload, arrivals : names from ``WORKLOADS`` and ``ARRIVALS``; None is "poisson".
    load : offered to the LLM slots.
    num_jobs : of an episode.
    engines, regular_executors : of the cluster "a100_llama2_7b", 8 slots an engine.
    """

    tests: str
    workload: str
    load: float = 1.3
    num_jobs: int = 300
    engines: int = 1
    regular_executors: int = 32
    arrivals: str | None = None

    def options(self) -> dict[str, Any]:
        """As those of :class:`LLMSchedEnv`: workload, cluster, num_jobs and load."""
        return {
            "workload": make_workload(self.workload, arrivals=self.arrivals),
            "cluster": load_cluster(
                PRESET, engines=self.engines, regular_executors=self.regular_executors
            ),
            "num_jobs": self.num_jobs,
            "load": self.load,
        }


SCENARIOS: Mapping[str, NamedScenario] = {
    "mixed": NamedScenario("a few huge jobs among many small ones", "mixed"),
    "predefined": NamedScenario(
        "graphs that are known, of calls whose lengths are not", "predefined", num_jobs=100
    ),
    "chain_like": NamedScenario("loops whose end nobody knows, with tools to spare", "chain_like"),
    "planning": NamedScenario("plans that reveal what a job needs", "planning"),
    "planning_default": NamedScenario(
        "the default cluster: four engines, and tools that are asked for 3.3 times too much",
        "planning",
        engines=4,
        regular_executors=16,
    ),
    "both_scarce": NamedScenario(
        "queues for engines and for tools at once", "chain_like", engines=2, regular_executors=16
    ),
    "tool_scarce": NamedScenario(
        "all waiting is for tools, and slots are free",
        "task_automation",
        load=0.9,
        engines=4,
        regular_executors=16,
    ),
    "fact_checking": NamedScenario(
        "the first prompt, visible at arrival, tells the size of the job", "fact_checking"
    ),
    "map_reduce": NamedScenario(
        "a fan-out that is known at arrival, of 7 to 44 calls at once", "map_reduce", num_jobs=200
    ),
    "tool_agent": NamedScenario(
        "prompts that grow to most of the work, over 2 to 30 calls", "tool_agent", num_jobs=200
    ),
    "bursty": NamedScenario(
        "bursts with pauses between them",
        "chain_like",
        load=0.9,
        num_jobs=400,
        arrivals="interrupted_poisson",
    ),
    "large": NamedScenario(
        "eight engines and 1,000 jobs: quick decisions among many",
        "planning",
        num_jobs=1000,
        engines=8,
        regular_executors=64,
    ),
}


def named_scenario(name: Any) -> NamedScenario:
    """The scenario of a name in ``SCENARIOS``; ValueError for any other."""
    if not isinstance(name, str) or name not in SCENARIOS:
        raise unknown("scenario", name, SCENARIOS)
    return SCENARIOS[name]


def _options(scenario: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, before what the scenario says."""
    return (named_scenario(scenario).options() if scenario is not None else {}) | dict(given)


def make(scenario: str | None = None, **options: Any) -> LLMSchedEnv:
    """What ``gymnasium.make`` calls: :class:`LLMSchedEnv` with a scenario's options.

    Parameters
    ----------
    scenario : a name from ``SCENARIOS``, or None.
    **options : of :class:`LLMSchedEnv`; they replace those of the scenario.

    Raises
    ------
    ValueError
        for an unknown scenario, and as :class:`LLMSchedEnv`.
    """
    return LLMSchedEnv(**_options(scenario, options))


def make_vec(
    num_envs: int = 1, *, scenario: str | None = None, **options: Any
) -> LLMSchedVectorEnv:
    """What ``gymnasium.make_vec`` calls: :func:`make` of ``num_envs`` clusters.

    Raises
    ------
    ValueError
        for an unknown scenario, and as :class:`LLMSchedVectorEnv`.
    """
    return LLMSchedVectorEnv(num_envs, **_options(scenario, options))


make.metadata = LLMSchedEnv.metadata  # type: ignore[attr-defined]  # gymnasium asks its maker

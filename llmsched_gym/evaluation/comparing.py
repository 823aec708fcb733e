"""Compare policies on the same episodes, as Python objects: nothing is printed or written.

from llmsched_gym.evaluation import compare

result = compare(["llmsched", "fcfs", "sjf"], workload="planning", num_jobs=50, episodes=5)
result.summary          # a pandas table, one row a policy
result.jct_by_policy()  # a matplotlib figure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmsched_gym.agents.base import Policy
from llmsched_gym.checks import is_whole
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.evaluation.comparison import Comparison, Evaluation, Run, check_runs, clairvoyants
from llmsched_gym.workload.mixes import Workload

if TYPE_CHECKING:
    from llmsched_gym.testbed.servers import Servers

DEFAULT = "a100_llama2_7b"
OPTIONS = ("belief_settings", "max_jobs", "max_stages")  # more ones of the environment

Named = str | Policy | tuple[str, Mapping[str, Any]]


def compare(
    policies: Sequence[Named] | Mapping[str, Named],
    *,
    workload: str | Workload = "mixed",
    cluster: str | Cluster | None = None,
    num_jobs: int = 100,
    load: float = 1.3,
    arrival_rate: float | None = None,
    belief: str = "bayes",
    episodes: int = 10,
    seed: int = 0,
    processes: int = 1,
    reference: bool = True,
    servers: Servers | None = None,
    **options: Any,
) -> Comparison:
    """Play the same episodes with several policies.

    Parameters
    ----------
    policies
        Names, ``module:Class`` or policies; the first is compared with the others. A dictionary
        gives labels of your own: ``{"mine": Mine(), "eager": ("llmsched", {"epsilon": 1.0})}``.
    workload, cluster, num_jobs, load, arrival_rate, belief, options
        Of :class:`~llmsched_gym.env.scheduling.LLMSchedEnv`; no cluster is "a100_llama2_7b", or
        with servers what is measured of them, which takes about 30 s.
    episodes, seed
        How many, and what determines them.
    processes
        At once; policies that are defined in a notebook can only be played in one.
    reference
        Add the clairvoyant references ``srtf_oracle`` and, not on servers, ``srtf_own_oracle``.
    servers
        Play on these in real time (see :mod:`llmsched_gym.evaluation.live`) instead of simulating.

    Raises
    ------
    ValueError
        for what is not right in the arguments.
    InputError
        for an illegal action of a policy, and for a server that fails.
    PolicyError
        for what a policy raises.
    """
    _check(episodes, processes, seed, options, servers)
    references = clairvoyants(servers is not None) if reference else ()
    runs = check_runs([*_runs(policies), *references], belief)
    given = {"num_jobs": num_jobs, "load": load, "arrival_rate": arrival_rate, **options}
    shown = load if arrival_rate is None else None
    if servers is not None:
        from llmsched_gym.evaluation.live import apart, prepare  # which needs the extra `testbed`

        given |= {"workload": workload, "belief": belief}
        return apart(lambda: prepare(servers, runs, cluster, given, episodes, seed, shown).play())
    env, oracle = (
        LLMSchedEnv(workload, cluster or DEFAULT, belief=name, strict=True, **given)
        for name in (belief, "oracle")
    )
    return Evaluation(runs, env, oracle, episodes, seed, processes, shown).play()


def _check(
    episodes: Any, processes: Any, seed: Any, options: Mapping[str, Any], servers: Any
) -> None:
    numbers = (("episodes", episodes, 1), ("processes", processes, 1), ("seed", seed, 0))
    for name, value, least in numbers:
        if not is_whole(value, least):
            raise ValueError(f"{name}: {value!r} is not a whole number of at least {least}")
    if servers is not None and processes != 1:
        raise ValueError(f"processes: {processes}, but on servers it can only be one")
    for name in sorted(options.keys() - set(OPTIONS)):
        raise ValueError(f"unknown option {name!r}; valid here: {', '.join(OPTIONS)}")


def _runs(policies: Any) -> list[Run]:
    if isinstance(policies, str | Policy) or not isinstance(policies, Sequence | Mapping):
        raise ValueError(f"policies: {policies!r} is not a list such as ['llmsched', 'fcfs']")
    if not policies:
        raise ValueError("policies: there is none, name at least one")
    if isinstance(policies, Mapping):
        return [_run(str(label), one) for label, one in policies.items()]
    return [_run(None, one) for one in policies]


def _run(label: str | None, named: Any) -> Run:
    """A policy by its name, by its name and options, or itself."""
    policy, options = named if _is_pair(named) else (named, {})
    if not isinstance(policy, str | Policy):
        raise ValueError(
            f"policies: {named!r} is neither a name nor a policy (an object, not a class) nor "
            "a pair of name and options"
        )
    known = policy if isinstance(policy, str) else _name(policy)
    return Run(known if label is None else label, policy, dict(options))


def _is_pair(named: Any) -> bool:
    if not isinstance(named, tuple) or len(named) != 2:
        return False
    return isinstance(named[0], str) and isinstance(named[1], Mapping)


def _name(policy: Policy) -> str:
    return policy.name or type(policy).__name__

"""Compare policies on real LLM servers, in real time.

Episodes are played one after the other in this process: all policies play episode 0 before any
plays episode 1, and each time another one begins, so that a server that grows slower or faster
meanwhile is slower or faster for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError, interrupted, one_line
from llmsched_gym.evaluation.comparison import Comparison, Evaluation, Run
from llmsched_gym.evaluation.episodes import Episode, play
from llmsched_gym.evaluation.kept import is_kept, keep, kept
from llmsched_gym.testbed.calibrate import calibrate
from llmsched_gym.testbed.client import Rejected, Unavailable
from llmsched_gym.testbed.environment import TestbedEnv
from llmsched_gym.testbed.probe import probe_largest, probe_slots
from llmsched_gym.testbed.servers import Servers
from llmsched_gym.workload.mixes import Workload, make_workload

T = TypeVar("T")

CALIBRATED = "calibrated"  # the name of a cluster whose profile was measured
ANY = "constant"  # a cluster that can run any jobs
SHORTEST, LONGEST = 64, 512  # tokens of the longest prompt that is measured


class Unfinished(KeyboardInterrupt):
    """Somebody ended an evaluation on servers before its last episode.

    Attributes
    ----------
    comparison : of the episodes that all policies had finished, None without one.
    """

    def __init__(self, comparison: Comparison | None) -> None:
        super().__init__()
        self.comparison = comparison


@dataclass(frozen=True)
class LiveEvaluation(Evaluation):
    """What to evaluate on servers: ``env`` and ``oracle`` are of the testbed.

    Engines may be faster than their profile says, so that there is no lower bound.

    Attributes
    ----------
    folder : where episodes are kept as they end, and taken from if they are there; None: nowhere.
    """

    simulated = False

    folder: Path | None = None

    @property
    def servers(self) -> Servers:
        """What is played on."""
        return cast(TestbedEnv, self.env).servers

    def kept(self) -> int:
        """How many episodes are kept already."""
        todo = ((run.label, n) for run in self.runs for n in range(self.episodes))
        return 0 if self.folder is None else sum(is_kept(self.folder, *one) for one in todo)

    def play(
        self,
        played: Callable[[], None] = lambda: None,
        begins: Callable[[str], None] = lambda _what: None,
    ) -> Comparison:
        """Play all episodes that are not kept; calls ``begins`` before each, ``played`` after it.

        Raises
        ------
        InputError
            as :meth:`Evaluation.play`, and for a server that fails for good.
        PolicyError
            for what a policy raises.
        Unfinished
            if it is interrupted.
        """
        done: dict[tuple[str, int], Episode] = {}
        before = self.kept()
        try:
            for number in range(self.episodes):
                first = number % len(self.runs)
                for run in (*self.runs[first:], *self.runs[:first]):
                    begins(f"episode {number + 1} of {self.episodes}, {run.label}")
                    done[run.label, number] = self._episode(run, number)
                    played()
        except BaseException as error:
            if not interrupted(error):
                raise
            raise Unfinished(self._comparison(done, before)) from None
        finished = self._comparison(done, before)
        assert finished is not None
        return finished

    def _episode(self, run: Run, number: int) -> Episode:
        if self.folder is not None and (found := kept(self.folder, run.label, number)):
            return found
        env = cast(TestbedEnv, self.environment(run))
        try:
            episode = play(env, run.make(), run.label, self.seed, number)
        finally:
            env.close()
        episode = replace(episode, tasks=env.task_table(), log=env.log)
        if self.folder is None:
            return episode
        keep(self.folder, episode)
        return replace(episode, log=None)

    def _comparison(self, done: dict[tuple[str, int], Episode], before: int) -> Comparison | None:
        """Of those episodes that all policies have finished; so many were kept before."""
        labels, numbers = [run.label for run in self.runs], range(self.episodes)
        whole = [n for n in numbers if all((label, n) in done for label in labels)]
        if not whole:
            return None
        episodes = [done[label, number] for label in labels for number in whole]
        notes = [self._on_what(), *self._retried(episodes), *self._stolen(before)]
        if len(whole) < self.episodes:
            notes.append(f"Interrupted: {len(whole)} of {self.episodes} episodes are in here.")
        return self.compared(episodes, *notes)

    def _on_what(self) -> str:
        urls = self.servers.urls
        return f"Played in real time on {', '.join(urls)}, {self.servers.slots} slots each."

    def _retried(self, episodes: list[Episode]) -> list[str]:
        """A word on requests that failed at first."""
        tables = [one.tasks for one in episodes if one.tasks is not None]
        retries = sum(int(table["retries"].clip(min=0).sum()) for table in tables)
        return [f"Requests that failed and were sent again: {retries}."] if retries else []

    def _stolen(self, before: int) -> list[str]:
        """A word on the time that is left out, if any is and something was played just now."""
        share = getattr(self.servers.clock, "stolen_share", None)
        if share is None or before == len(self.runs) * self.episodes:
            return []
        since = ", since the run went on" if before else ""
        return [f"Time that servers waited for a CPU is left out: {share():.1%} of theirs{since}."]


def prepare(
    servers: Servers,
    runs: tuple[Run, ...],
    cluster: str | Cluster | None,
    given: Mapping[str, Any],
    episodes: int,
    seed: int,
    load: float | None,
) -> LiveEvaluation:
    """An evaluation on servers that were found to be able to do it.

    Parameters
    ----------
    cluster
        What is believed of the servers; None: what is :func:`measured`.
    given
        Of :class:`~llmsched_gym.env.scheduling.LLMSchedEnv`, workload and belief among them.
    episodes, seed, load
        Of :class:`~llmsched_gym.evaluation.comparison.Evaluation`.

    Raises
    ------
    InputError
        for what servers cannot do.
    ValueError
        for what is not right in the options of the environment.
    """
    options: dict[str, Any] = {**given, "strict": True}
    check(servers, options, cluster)
    if cluster is None:
        workload = options["workload"]
        if not isinstance(workload, Workload):
            options["workload"] = workload = make_workload(workload)
        cluster = measured(servers, workload)
    return on_servers(servers, runs, options | {"cluster": cluster}, episodes, seed, load)


def check(servers: Servers, options: Mapping[str, Any], cluster: str | Cluster | None) -> None:
    """Meet early, and before a measurement that takes a while, what is not right.

    Raises
    ------
    InputError
        if a server is none, runs fewer requests at once than its slots, or cannot take the largest
        task of the jobs.
    ValueError
        for bad options of the environment, and one slot where servers are to be measured.
    """
    if cluster is None and servers.slots == 1:
        raise ValueError("slots: a server of one slot is not measured, choose a cluster instead")
    env = LLMSchedEnv(**{**options, "cluster": cluster or ANY, "belief": "none"})
    probe_slots(servers)
    bank = env.bank
    largest = (bank.prompt_tokens + bank.output_tokens).argmax()
    if bank.output_tokens[largest]:
        sizes = int(bank.prompt_tokens[largest]), int(bank.output_tokens[largest])
        probe_largest(servers, *sizes)


def on_servers(
    servers: Servers,
    runs: tuple[Run, ...],
    options: Mapping[str, Any],
    episodes: int,
    seed: int,
    load: float | None,
    folder: Path | None = None,
) -> LiveEvaluation:
    """An evaluation whose environments have these options, the belief of policies among them."""
    env, oracle = (
        TestbedEnv(servers, **{**options, "belief": belief})
        for belief in (options["belief"], "oracle")
    )
    return LiveEvaluation(runs, env, oracle, episodes, seed, 1, load, folder)


def measured(servers: Servers, workload: Workload, regular_executors: int | None = None) -> Cluster:
    """The cluster that servers are: the first is measured, the others are taken to be like it.

    It takes about 30 s, in which nobody else may use the server. Its KV capacity is taken to be
    what all slots can need.

    Raises
    ------
    InputError
        if the server fails.
    ValueError
        if it does not do what was said of it.
    """
    bank = workload.bank
    output = max(int(bank.output_tokens.max()), int(bank.output_limit.max()))
    most = int(bank.prompt_tokens.max()) + output
    try:
        found = calibrate(
            servers.urls[0],
            slots=servers.slots,
            model=servers.model,
            clock=servers.clock,
            longest=min(max(most, SHORTEST), LONGEST),
            name=CALIBRATED,
            kv_capacity_tokens=servers.slots * most,
            timeout_s=servers.timeout_s,
        )
    except (Unavailable, Rejected) as error:
        raise InputError(f"url: {one_line(error)}") from error
    sizes = {} if regular_executors is None else {"regular_executors": regular_executors}
    return Cluster(CALIBRATED, found.profile, len(servers.urls), servers.slots, **sizes)


def apart(function: Callable[[], T]) -> T:
    """What a function returns; where an event loop runs, as in notebooks, in a thread apart."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()

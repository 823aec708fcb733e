"""LLMSchedEnv on real LLM servers: the same observations, actions and figures, in real time."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.env.view import look
from llmsched_gym.testbed.driver import LiveDriver, check_no_loop_runs
from llmsched_gym.testbed.log import EventLog, task_table
from llmsched_gym.testbed.servers import Servers as Servers
from llmsched_gym.testbed.servers import check_servers
from llmsched_gym.workload.mixes import Workload


class TestbedEnv(LLMSchedEnv):
    """An :class:`LLMSchedEnv` whose LLM engines are servers; an episode takes its real time.

    Parameters
    ----------
    servers : the LLM engines.
    workload, cluster, options : as of :class:`LLMSchedEnv`. Of the cluster its latency profile is
        what is believed of the servers (see ``testbed.calibrate``), its regular executors are the
        tools; it has one engine a server, and as many slots.

    Raises
    ------
    ValueError
        as :class:`LLMSchedEnv`.
    """

    __test__ = False  # it is no test, whatever its name begins with

    def __init__(
        self,
        servers: Servers,
        workload: str | Workload = "mixed",
        cluster: str | Cluster = "a100_llama2_7b",
        **options: Any,
    ) -> None:
        self.servers = servers
        self._live = LiveDriver(servers)
        self._ready = False
        cluster = load_cluster(cluster, engines=len(servers.urls), max_batch=servers.slots)
        super().__init__(workload, cluster, driver=self._live, **options)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Begin a new episode, see :class:`LLMSchedEnv`; one that still runs is cancelled.

        Before the first one the servers are checked, and what an episode calls is compiled.

        Raises
        ------
        InputError
            if a server is not what it should be, or fails for good: one line with its URL.
        RuntimeError
            where an event loop runs already, as in a notebook.
        """
        check_no_loop_runs()
        if not self._ready:
            tokens = self.bank.prompt_tokens + self.bank.output_tokens
            asyncio.run(check_servers(self.servers, int(tokens.max())))
            state = self.scenario.draw(np.random.default_rng(0), None)
            look(self.scenario, state, self.scenario.wanted)
            self._live.warm_up(state)
            self._ready = True
        return super().reset(seed=seed, options=options)

    @property
    def log(self) -> EventLog:
        """What has happened in the episode, up to now; RuntimeError before the first reset."""
        return self._live.log

    def task_table(self) -> dict[str, NDArray[Any]]:
        """Per task of the episode, what was measured; NaN or -1 where nothing was.

        Returns
        -------
        job : the number of its job, in order of arrival.
        stage, task : its stage in the job, and its number in the stage.
        kind : "llm" or "regular".
        engine : the number of its server, -1 for regular tasks and before it starts.
        queued_s : when its stage became ready.
        sent_s, first_token_s, end_s : when its (last) request was sent, when its first token and
            its end came; of a regular task when it began and ended. Seconds of the episode.
        prompt_tokens, output_tokens : as the server counted them, -1 unless it is complete.
        retries : how often its request was sent again, -1 if it never was sent.
        """
        return task_table(self.state, self.log.requests)

    def close(self) -> None:
        """Cancel what runs and close all connections; tables and log stay."""
        self._live.close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self._live.__reduce_ex__(protocol)
        raise AssertionError("unreachable")

"""LLMSchedEnv on real LLM servers: the same observations, actions and figures, in real time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from numpy.typing import NDArray

from llmsched_gym.checks import is_positive, is_whole
from llmsched_gym.cluster.preset import SIZES, Cluster, load_cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError
from llmsched_gym.workload.mixes import Workload

if TYPE_CHECKING:
    from llmsched_gym.testbed.clock import Clock
    from llmsched_gym.testbed.log import EventLog

TOOLS = ("sleep", "process")


@dataclass(frozen=True)
class Servers:
    """LLM servers that speak the completions API of OpenAI, each one an LLM engine.

    Parameters
    ----------
    urls : of each server, such as "http://127.0.0.1:8001"; all different.
    slots : requests that a server is given at a time at most, 1 to 10,000. It must have been
        started with at least as many, or it queues them.
    model : the name that the servers know, or None for the first that each of them tells.
    timeout_s : seconds after which a request is given up and sent again.
    retries : how often a request is sent again before the episode fails, after 0.1, 0.2, 0.4, ...
        seconds, at most 10.
    tools : what a regular task is: "sleep" (nothing but its time passes) or "process" (a process
        that sleeps; it needs a command `sleep`).
    clock : what the time is read from, None for the time of the machine.

    Raises
    ------
    InputError
        for any other value: one line that names the field.
    """

    urls: tuple[str, ...]
    slots: int
    model: str | None = None
    timeout_s: float = 120.0
    retries: int = 5
    tools: str = "sleep"
    clock: Clock | None = None

    def __post_init__(self) -> None:
        urls = (self.urls,) if isinstance(self.urls, str) else tuple(self.urls)
        object.__setattr__(self, "urls", tuple(_url(url) for url in urls))
        if not self.urls:
            raise InputError("url: at least one server is needed, such as http://127.0.0.1:8001")
        for url in self.urls:
            if self.urls.count(url) > 1:
                raise InputError(f"url: {url} is given twice: each server is one LLM engine")
        if not is_whole(self.slots, 1, SIZES["max_batch"]):
            most = f"{SIZES['max_batch']:,}"
            raise InputError(f"slots: {self.slots!r} is not a whole number from 1 to {most}")
        if not (self.model is None or (isinstance(self.model, str) and self.model)):
            raise InputError(f"model: {self.model!r} is not the name of a model")
        if not is_positive(self.timeout_s):
            raise InputError(f"timeout_s: {self.timeout_s!r} is not a positive time in seconds")
        if not is_whole(self.retries, 0):
            raise InputError(f"retries: {self.retries!r} is not a whole number of at least 0")
        if self.tools not in TOOLS:
            raise InputError(f"tools: unknown {self.tools!r}, choose from {', '.join(TOOLS)}")


def _url(url: Any) -> str:
    """A URL without a slash at its end."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        known = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
        known = known and parts is not None and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is none
        known = False
    if not known or not url.isprintable() or " " in url:
        raise InputError(f"url: {url!r} is not a URL such as http://127.0.0.1:8001")
    return str(url).rstrip("/")


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
        sizes = {"engines": len(servers.urls), "max_batch": servers.slots}
        super().__init__(workload, load_cluster(cluster, **sizes), **options)

    @property
    def log(self) -> EventLog:
        """What has happened in the episode; see ``testbed.log``."""
        raise NotImplementedError

    def task_table(self) -> dict[str, NDArray[Any]]:
        """Per task of the episode, what was measured; NaN or -1 where nothing was.

        Returns
        -------
        job : the number of its job, in order of arrival.
        stage, task : its stage in the job, and its number in the stage.
        kind : "llm" or "regular".
        engine : the number of its server, -1 for regular tasks and before it is dispatched.
        queued_s : when its stage became ready.
        sent_s, first_token_s, end_s : when its (last) request was sent, when its first token and
            its end came; of a regular task when it began and ended. Seconds of the episode.
        prompt_tokens, output_tokens : as the server counted them, -1 unless it is complete.
        retries : how often it was sent again.
        """
        raise NotImplementedError

"""The servers that are the LLM engines of a testbed, and what is checked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmsched_gym.checks import is_positive, is_whole
from llmsched_gym.cluster.preset import SIZES
from llmsched_gym.errors import InputError, one_line
from llmsched_gym.testbed.client import Client, Rejected, Unavailable, checked_url
from llmsched_gym.testbed.clock import Clock
from llmsched_gym.testbed.prompts import prompt_ids

TOOLS = ("sleep", "process")


@dataclass(frozen=True)
class Servers:
    """LLM servers that speak the completions API of OpenAI, each one an LLM engine.

    Parameters
    ----------
    urls : of each server, such as "http://127.0.0.1:8001", all different; or of a single one.
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

    urls: Sequence[str]
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
    try:
        return checked_url(url)
    except Rejected as error:
        raise InputError(one_line(error)) from None


async def check_servers(servers: Servers, largest_tokens: int) -> None:
    """Ask each server what it is, and have it generate two tokens: its first request is slow.

    Parameters
    ----------
    servers : to be checked.
    largest_tokens : prompt and output of the largest task.

    Raises
    ------
    InputError
        if one cannot be reached, does not know the model, has fewer slots or a shorter context
        than it needs: one line with its URL. Not all servers tell the last two.
    """
    for url in servers.urls:
        try:
            async with Client(url, model=servers.model, timeout_s=servers.timeout_s) as client:
                await client.check()
                limits = await client.limits()
                await client.generate(prompt_ids(0, 16), 2)
        except (Unavailable, Rejected) as error:
            raise InputError(one_line(error)) from error
        if limits.get("slots", servers.slots) < servers.slots:
            raise InputError(f"{url}: slots: it has {limits['slots']}, not {servers.slots}")
        if limits.get("context", largest_tokens) < largest_tokens:
            raise InputError(
                f"{url}: its context of {limits['context']} tokens is too short for the largest "
                f"task, of {largest_tokens} tokens: scale the workload down, or serve with a "
                "longer context"
            )

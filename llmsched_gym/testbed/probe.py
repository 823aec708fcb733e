"""What servers can do, found out before anything depends on it: by asking them to do it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from llmsched_gym.errors import InputError
from llmsched_gym.testbed.client import Answer, Client, Rejected, Unavailable
from llmsched_gym.testbed.prompts import prompt_ids
from llmsched_gym.testbed.servers import Servers

ANSWERS = (16, 64, 256)  # tokens: of a quick server the first of short ones end before all begin


def probe_slots(servers: Servers) -> None:
    """Check that each server runs as many requests at once as ``servers.slots`` says.

    Raises
    ------
    InputError
        if one does not, does not have the model or is no LLM server: one line that names it.
    """
    _probe(servers, _slots_of)


def probe_largest(servers: Servers, prompt_tokens: int, output_tokens: int) -> None:
    """Check that each server takes an LLM task of this size.

    Raises
    ------
    InputError
        if one does not, as where its context is too small: one line that names it.
    """

    async def largest(client: Client, _slots: int) -> None:
        await _ask(client, [prompt_tokens], output_tokens)

    _probe(servers, largest)


def _probe(servers: Servers, what: Callable[[Client, int], Awaitable[None]]) -> None:
    async def each() -> None:
        for url in servers.urls:
            async with Client(url, model=servers.model, timeout_s=servers.timeout_s) as client:
                await what(client, servers.slots)

    try:
        asyncio.run(each())
    except (Rejected, Unavailable) as error:
        raise InputError(f"url: {error}") from error


async def _slots_of(client: Client, slots: int) -> None:
    await client.check()
    at_once = 0
    for tokens in ANSWERS:
        at_once = max(at_once, _at_once(await _ask(client, [2] * slots, tokens)))
        if at_once == slots:
            return
    raise InputError(
        f"slots: {client.url} runs {at_once} requests at once, not {slots}: start it with as many "
        "slots, or ask for fewer"
    )


async def _ask(client: Client, prompts: Sequence[int], output_tokens: int) -> list[Answer]:
    """The answers to prompts of these lengths, all sent at once."""
    asked = [
        client.generate(prompt_ids(key, tokens), output_tokens)
        for key, tokens in enumerate(prompts)
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if isinstance(answer, Answer)]


def _at_once(answers: Sequence[Answer]) -> int:
    """How many were being generated at one time, at most."""
    begun = [answer.first_token_s for answer in answers]
    return max(sum(a.first_token_s <= time < a.token_s[-1] for a in answers) for time in begun)

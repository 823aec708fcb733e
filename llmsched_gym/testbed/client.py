"""One streaming request to an LLM server: how many tokens came, and when.

The request is the one that llama.cpp, vLLM and SGLang all take: ``POST /v1/completions`` with token
ids, so that the prompt has an exact length, and with everything set so that exactly as many tokens
come out as are asked for. Tokens are counted by the server's own ``usage``; what each token's event
is good for is its time.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from llmsched_gym.checks import is_positive, is_whole
from llmsched_gym.errors import one_line, printable
from llmsched_gym.testbed.clock import Clock, WallClock
from llmsched_gym.testbed.extra import NEEDED
from llmsched_gym.workload.inputs import shown

try:
    import aiohttp
except ImportError as error:
    raise ImportError(NEEDED) from error

LONGEST_LINE = 2**20  # bytes of an event; one of a token has some hundreds
LONGEST_PAGE = 2**22  # bytes of an answer that is no stream
LOOK_S = 10.0  # for an answer to a request that computes nothing, at most
_SAYS = 200  # characters of what a server says that are shown
_CONTEXT = "Context size has been exceeded"  # llama.cpp, within a stream


class Unavailable(Exception):
    """The server did not do it, and may if it is asked again: one line that names the URL.

    Refused, 5xx, 503 while loading, 408, 429, a time-out, a stream that is cut, an error in it.
    """


class Rejected(ValueError):
    """Asking again would not help: one line that names the URL.

    4xx, an unknown model, no LLM server, fewer or other tokens than asked for, as when the context
    of the server is too small.
    """


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request yielded; times in seconds of the client's clock.

    Parameters
    ----------
    sent_s : just before the request.
    first_token_s : of the first token.
    end_s : of the end of the stream.
    token_s : of the events that brought tokens: one each but for servers that merge some when they
        are in a hurry.
    prompt_tokens, output_tokens : as the server counts them, equal to what was asked for.
    """

    sent_s: float
    first_token_s: float
    end_s: float
    token_s: tuple[float, ...]
    prompt_tokens: int
    output_tokens: int


class Client:
    """An LLM server, as an async context manager.

    Each request has a connection of its own, which ends with it, also when it is cancelled: a
    server then stops generating. Nothing is sent anywhere but to the URL: redirects are refused,
    and proxies and passwords that the environment holds are not used.

    Parameters
    ----------
    url : of the server, e.g. ``http://127.0.0.1:8001``.
    model : a name in ``/v1/models``; default the only one there.
    clock : of the times in answers, default the wall's.
    timeout_s : seconds of the wall that a request may take.

    Raises
    ------
    Rejected
        if the URL is none, or the time-out is not above 0.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        clock: Clock | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self.url = checked_url(url)
        if not is_positive(timeout_s):
            raise Rejected(f"timeout_s: {shown(timeout_s)} is not a time above 0")
        self._model = model
        self._known = False  # whether the server has that model
        self._clock = clock or WallClock()
        self._timeout_s = float(timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "Connection": "close"},
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def generate(
        self,
        prompt: Sequence[int],
        output_tokens: int,
        on_token: Callable[[int], None] | None = None,
    ) -> Answer:
        """Have the server process a prompt and generate exactly so many tokens.

        Parameters
        ----------
        prompt : token ids, 1 or more, see :func:`llmsched_gym.testbed.prompts.prompt_ids`.
        output_tokens : 1 or more.
        on_token : called with the number of tokens so far, at each.

        Raises
        ------
        Unavailable
            if it may help to ask again.
        Rejected
            if it would not.
        """
        if not len(prompt) or not is_whole(output_tokens, 1):
            raise Rejected(
                f"{self.url}: asked for {shown(output_tokens)} tokens after a prompt of "
                f"{len(prompt)}: both must be at least 1"
            )
        stream = _Stream(int(output_tokens), on_token)
        async with self._speaking(self._timeout_s):
            body = _request(await self._name(), prompt, stream.asked)
            sent_s = end_s = self._clock.now()
            async with self._open("POST", "/v1/completions", json=body) as response:
                await _expect(response, "text/event-stream")
                async for part in response.content.iter_any():
                    end_s = self._clock.now()
                    stream.take(part, end_s)
                    if stream.done:
                        break
            stream.check(len(prompt))
        tokens = tuple(stream.token_s)
        return Answer(sent_s, tokens[0], end_s, tokens, len(prompt), stream.asked)

    async def models(self) -> list[str]:
        """The names in ``/v1/models``; errors as for :meth:`generate`."""
        async with self._looking():
            return await self._models()

    async def healthy(self) -> bool:
        """Whether ``/health`` says so, within 10 s."""
        try:
            async with self._looking(), self._open("GET", "/health") as response:
                return response.status == 200
        except (Unavailable, Rejected):
            return False

    async def counters(self) -> dict[str, float]:
        """What ``/metrics`` of llama.cpp counts, by name without ``llamacpp:``; {} if none.

        E.g. ``n_decode_total``, ``prompt_tokens_total``, ``tokens_predicted_total``,
        ``requests_processing``, ``requests_deferred``. Errors as for :meth:`generate`.
        """
        async with self._looking(), self._open("GET", "/metrics") as response:
            if response.status in (404, 501):
                return {}
            await _expect(response, "text/plain")
            page = await _page(response)
        found = {}
        for line in page.decode("utf-8", "replace").splitlines():
            name, _, value = line.partition(" ")
            if name.startswith("llamacpp:"):
                with suppress(ValueError):
                    found[name.removeprefix("llamacpp:")] = float(value)
        return found

    async def limits(self) -> dict[str, int]:
        """How many ``slots`` it has, and tokens of ``context`` for a request, as far as it tells.

        llama.cpp tells both, vLLM and SGLang the latter. Errors as for :meth:`generate`.
        """
        async with self._looking():
            name = await self._name()
            models, props = await self._told("/v1/models"), await self._told("/props")
        model: Any = next((one for one in models.get("data", ()) if one["id"] == name), {})
        settings: Any = props.get("default_generation_settings")
        context = settings.get("n_ctx") if isinstance(settings, dict) else None
        told = {"slots": props.get("total_slots"), "context": context or model.get("max_model_len")}
        return {what: int(number) for what, number in told.items() if is_whole(number, 1)}

    async def check(self) -> None:
        """Unavailable or Rejected if there is no LLM server or it does not have the model."""
        async with self._looking():
            self._known = False
            await self._name()

    async def _name(self) -> str:
        """The name of the model, which is looked up the first time."""
        if self._model is None or not self._known:
            names = await self._models()
            if self._model is None and len(names) != 1:
                raise Rejected(f"model: one is to be chosen from {_listed(names)}")
            if self._model is not None and self._model not in names:
                raise Rejected(f"model: unknown {shown(self._model)}, it has {_listed(names)}")
            self._model, self._known = self._model or names[0], True
        return self._model

    async def _models(self) -> list[str]:
        async with self._open("GET", "/v1/models") as response:
            await _expect(response, "application/json")
            page = await _page(response)
        try:
            names = [model["id"] for model in json.loads(page)["data"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            names = []
        if not names or not all(isinstance(name, str) for name in names):
            raise Rejected("/v1/models lists no models: no LLM server")
        return names

    async def _told(self, path: str) -> dict[str, Any]:
        """An object that a server may tell, {} if it does not."""
        async with self._open("GET", path) as response:
            page = await _page(response) if response.status == 200 else b""
        with suppress(ValueError, RecursionError):
            told = json.loads(page)
            return told if isinstance(told, dict) else {}
        return {}

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, **given: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response, whose connection is closed in any case."""
        if self._session is None:
            raise RuntimeError("a client is used within `async with`")
        url = self.url + path
        response = await self._session.request(method, url, allow_redirects=False, **given)
        try:
            yield response
        finally:
            response.close()

    def _looking(self) -> AbstractAsyncContextManager[None]:
        return self._speaking(min(LOOK_S, self._timeout_s))

    @asynccontextmanager
    async def _speaking(self, limit_s: float) -> AsyncIterator[None]:
        """Make one line that names the URL of whatever goes wrong with a request."""
        try:
            async with asyncio.timeout(limit_s) as limit:
                yield
        except (Unavailable, Rejected) as error:
            raise type(error)(f"{self.url}: {error}") from None
        except (aiohttp.ClientSSLError, aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
            raise Rejected(f"{self.url}: {_what(error)}") from error
        except TimeoutError as error:
            what = f"no answer within {limit_s:g} s" if limit.expired() else _what(error)
            raise Unavailable(f"{self.url}: {what}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{self.url}: {_what(error)}") from error


def checked_url(url: str) -> str:
    """The URL of a server without a slash at its end.

    Raises
    ------
    Rejected
        unless it is ``http://host:port``, or https, perhaps with a path.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        fine = fine and not (parts.query or parts.fragment or parts.username is not None)
    except (ValueError, TypeError, AttributeError):
        fine = False
    if not fine or not url.isprintable() or " " in url:
        raise Rejected(f"url: {shown(url)} is not like http://127.0.0.1:8001")
    return url.rstrip("/")


def _request(model: str, prompt: Sequence[int], output_tokens: int) -> dict[str, Any]:
    """What all three servers take: each ignores the fields of the others."""
    return {
        "model": model,
        "prompt": [int(token) for token in prompt],
        "max_tokens": output_tokens,
        "min_tokens": output_tokens,  # vLLM, SGLang
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,  # also since llama.cpp notices only of a stream that nobody reads it
        "stream_options": {"include_usage": True},
        "cache_prompt": False,  # llama.cpp
    }


@dataclass(slots=True)
class _Stream:
    """What has come of an answer so far."""

    asked: int
    on_token: Callable[[int], None] | None
    token_s: list[float] = field(default_factory=list)
    usage: Any = None
    rest: bytes = b""  # of a line that is not whole yet
    done: bool = False

    def take(self, part: bytes, now: float) -> None:
        """Read what came at an instant, which may end anywhere."""
        *lines, self.rest = (self.rest + part).split(b"\n")
        if len(self.rest) > LONGEST_LINE:
            raise Rejected(f"a line of its stream has more than {LONGEST_LINE} bytes")
        for line in map(bytes.strip, lines):
            name, _, value = line.partition(b":")
            if name == b"data" and value.strip() == b"[DONE]":
                self.done = True
                return
            if name == b"data":
                self._event(_json(value), now)
            elif name not in (b"", b"event", b"id", b"retry"):
                raise Rejected(f"its stream is none of events: {_text(line)}")

    def _event(self, event: Any, now: float) -> None:
        if not isinstance(event, dict):
            raise Rejected(f"an event of its stream is no object: {shown(event)}")
        if "error" in event:
            raise _error_within(event["error"])
        self.usage = event.get("usage") or self.usage
        # Each event with a choice is a token, whether or not it has a text. But some servers have
        # one more, to say why the stream ends.
        if event.get("choices") and len(self.token_s) < self.asked:
            self.token_s.append(now)
            if self.on_token is not None:
                self.on_token(len(self.token_s))

    def check(self, prompt_tokens: int) -> None:
        """Unavailable if the stream was cut, Rejected if it is not what was asked for."""
        if not self.done:
            raise Unavailable(
                f"the stream was cut after {len(self.token_s)} of {self.asked} tokens"
            )
        usage: dict[str, Any] = self.usage if isinstance(self.usage, dict) else {}
        prompt: Any = usage.get("prompt_tokens")
        output: Any = usage.get("completion_tokens")
        if not is_whole(prompt) or not is_whole(output):
            raise Rejected("the stream ends without a usage: the server does not count tokens")
        if prompt != prompt_tokens:
            raise Rejected(f"it counts {prompt} tokens of a prompt of {prompt_tokens}")
        if output != self.asked:
            why = ": is its context too small?" if output < self.asked else ""
            raise Rejected(f"it generated {output} tokens, {self.asked} were asked for{why}")
        if cached := _cached(usage):
            raise Rejected(f"{cached} prompt tokens came from its prefix cache: it is to have none")
        if not self.token_s:
            raise Rejected("its stream has a usage and no token")


def _cached(usage: dict[str, Any]) -> int:
    """Prompt tokens that a server says it did not compute, 0 if it does not say."""
    details = usage.get("prompt_tokens_details")
    cached: Any = details.get("cached_tokens") if isinstance(details, dict) else None
    return int(cached) if is_whole(cached) else 0


def _error_within(error: Any) -> Unavailable | Rejected:
    """What an error in a stream means, which had begun with a 200.

    llama.cpp's "Context size has been exceeded" comes with code 500, but is final. Its slots share
    the context. If that covers every slot's longest prompt and output the error never comes, for a
    request that is abandoned keeps its slot as long as it keeps its part of the context. If it does
    not, asking again may do by chance, but the server is not the one that the cluster describes.
    """
    code: Any = error.get("code") if isinstance(error, dict) else None
    message = error.get("message", "") if isinstance(error, dict) else error
    said = f"an error in the stream: {_text(str(message).encode())}"
    if _CONTEXT in said:
        return Rejected(f"{said}; its context must hold the prompts and outputs of all slots")
    if is_whole(code, 400, 499) and code not in (408, 429):
        return Rejected(said)
    return Unavailable(said)


async def _expect(response: aiohttp.ClientResponse, content_type: str) -> None:
    """Rejected or Unavailable unless the status is 200 and the content of this type."""
    status = response.status
    if status == 200 and response.content_type == content_type:
        return
    path = response.url.path
    if status == 200:
        raise Rejected(f"{path} gives {_text(response.content_type.encode())}: no LLM server")
    if 300 <= status < 400:
        raise Rejected(f"{path}: status {status}, redirects are not followed")
    said = f"{path}: status {status}: {_message(await _page(response))}".removesuffix(": ")
    if status >= 500 or status in (408, 429):
        raise Unavailable(said)
    raise Rejected(said)


async def _page(response: aiohttp.ClientResponse) -> bytes:
    """The whole of an answer that is no stream; Rejected if it is far too long."""
    page = bytearray()
    async for part in response.content.iter_any():
        page += part
        if len(page) > LONGEST_PAGE:
            raise Rejected(f"{response.url.path} gives more than {LONGEST_PAGE} bytes")
    return bytes(page)


def _message(page: bytes) -> str:
    """What a server says is wrong, in one line."""
    try:
        said = json.loads(page)
    except (ValueError, RecursionError):
        return _text(page)
    for name in ("error", "message"):
        if isinstance(said, dict) and name in said:
            said = said[name]
    return _text(str(said).encode())


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Rejected(f"an event of its stream is no JSON: {_text(text)}") from None


def _text(said: bytes) -> str:
    """The beginning of what a server says, in one line that commands no terminal."""
    text = printable(" ".join(said[: 4 * _SAYS].decode("utf-8", "replace").split()))
    return text if len(text) <= _SAYS else f"{text[:_SAYS]}..."


def _what(error: BaseException) -> str:
    """What went wrong with a connection."""
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"no secure connection: {_text(str(error).encode())}"
    if isinstance(error, aiohttp.ClientConnectorError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)  # without the address, which is in the URL
    if isinstance(error, aiohttp.ClientResponseError):
        return f"its answer is no HTTP: {_text(error.message.encode())}".removesuffix(": ")
    return _text(one_line(error).encode()) or type(error).__name__


def _listed(names: list[str]) -> str:
    return _text(", ".join(names).encode())

"""A server that says whatever bytes a test wants, and what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'
Say = Callable[[asyncio.StreamWriter], Awaitable[None]]


def page(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def stream(body: bytes = b"") -> bytes:
    """The beginning of a stream, which ends with the connection."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def event(**content: Any) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def token(text: str = " a", why: str | None = None) -> bytes:
    return event(choices=[{"text": text, "index": 0, "finish_reason": why}])


def usage(prompt: Any, output: Any, **more: Any) -> bytes:
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": output} | more)


DONE = b"data: [DONE]\n\n"


@dataclass
class Raw:
    """What has been asked, and how many bytes were taken by whoever asked."""

    url: str
    heads: list[str] = field(default_factory=list)  # of requests, method and path first
    bodies: list[bytes] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def raw_server(
    completions: bytes | Say, models: bytes | Say | None = None
) -> AsyncIterator[Raw]:
    """Answer requests for tokens with one thing and all others with another."""
    raw = Raw("")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(line[15:]) for line in head.split("\r\n") if "content-length" in line.lower()),
                0,
            )
            raw.bodies.append(await reader.readexactly(length))
            raw.heads.append(head)
            wanted = completions if head.startswith("POST") else models or page(MODELS)
            if isinstance(wanted, bytes):
                writer.write(wanted)
                await writer.drain()
            else:
                await wanted(writer)
            writer.close()
            await writer.wait_closed()
        raw.hung_up.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield raw
    finally:
        server.close()

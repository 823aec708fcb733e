"""Where a program connects to: nowhere but where a test allows it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class SocketGuard:
    """What this process has connected to and looked up, and what it should not have.

    Attributes
    ----------
    allowed : hosts.
    reached : (host, port) that somebody connected to.
    refused : hosts that somebody wanted to connect to or to look up.
    """

    def __init__(self, allowed: tuple[str, ...] = LOOPBACK) -> None:
        self.allowed = allowed
        self.reached: set[tuple[str, int]] = set()
        self.refused: set[str] = set()

    def check(self, host: Any) -> None:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and name not in self.allowed:
            self.refused.add(str(name))
            raise ConnectionRefusedError(f"this test must not reach {name}")


@contextmanager
def guarded_sockets(allowed: tuple[str, ...] = LOOPBACK) -> Iterator[SocketGuard]:
    """Fail the test if anything wants to reach a host that is not allowed, even in vain."""
    guard, patch = SocketGuard(allowed), pytest.MonkeyPatch()

    def guarding(name: str) -> None:
        original = getattr(socket.socket, name)

        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                guard.check(address[0])
                guard.reached.add((address[0], address[1]))
            return original(self, address)

        patch.setattr(socket.socket, name, connect)

    guarding("connect")
    guarding("connect_ex")
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        guard.check(host)
        return look_up(host, *arguments, **named)

    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        yield guard
    finally:
        patch.undo()
    assert guard.refused == set()

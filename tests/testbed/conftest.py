import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from support.sockets import SocketGuard, guarded_sockets

pytest.importorskip("aiohttp", reason="the extra llmsched-gym[testbed] is not installed")


@pytest.fixture(autouse=True)
def sockets() -> Iterator[SocketGuard]:
    """No test of real servers reaches another machine."""
    with guarded_sockets() as guard:
        yield guard


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine in an event loop, for a minute at most."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(coroutine, 60))

    return run


@pytest.fixture
def unused_port() -> int:
    """A port of 127.0.0.1 that nobody listens to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port

"""Servers in memory and a clock that jumps: episodes "in real time" that take no time at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.testbed import driver
from llmsched_gym.testbed.client import Answer, Unavailable
from llmsched_gym.testbed.driver import LiveDriver
from llmsched_gym.testbed.fake import Engine
from llmsched_gym.testbed.fake import Sequence as Running
from llmsched_gym.testbed.servers import Servers


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never sleeps: its time goes at once to the next thing that is due."""

    def __init__(self) -> None:
        self._virtual_s = 0.0
        super().__init__()
        selector: Any = self._selector  # type: ignore[attr-defined]
        really, selector.select = selector.select, self._select
        self._really = really

    def time(self) -> float:
        return self._virtual_s

    def _select(self, timeout: float | None) -> Any:
        found = self._really(0)
        if not found:
            assert timeout is not None, "nothing will ever happen"
            self._virtual_s += timeout
        return found


class VirtualClock:
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep_until(self, time: float) -> None:
        await asyncio.sleep(time - self.now())


class InMemory:
    """A client whose server is a fake engine beside it; each ``fail_every``-th request fails."""

    def __init__(
        self, url: str, *, profile: LatencyProfile, slots: int, fail_every: int = 0, **_: Any
    ) -> None:
        self.url, self.engine, self.fail_every = url, Engine(profile, slots), fail_every
        self.asked = 0
        self._came: dict[int, asyncio.Queue[int]] = {}
        self._busy = False

    async def __aenter__(self) -> InMemory:
        return self

    async def __aexit__(self, *_: Any) -> None:
        pass

    async def check(self) -> None:
        pass

    async def generate(
        self, prompt: Sequence[int], output: int, on_token: Callable[[int], None]
    ) -> Answer:
        self.asked += 1
        fails_at = output // 2 if self.fail_every and self.asked % self.fail_every == 0 else -1
        now = asyncio.get_running_loop().time
        sent_s, token_s, one = now(), list[float](), Running(len(prompt), output)
        came = self._came[id(one)] = asyncio.Queue()
        self.engine.submit(one)
        if not self._busy:
            self._begin()
        try:
            while len(token_s) < output:
                if len(token_s) == fails_at:
                    raise Unavailable(f"{self.url}: the stream was cut")
                count = await came.get()
                token_s.append(now())
                on_token(count)
        finally:
            one.gone = True
        return Answer(sent_s, token_s[0], now(), tuple(token_s), len(prompt), output)

    def _begin(self) -> None:
        ticks = self.engine.begin()
        self._busy = ticks > 0
        if ticks:
            asyncio.get_running_loop().call_later(ticks / TICKS_PER_SECOND, self._end)

    def _end(self) -> None:
        for one in self.engine.end():
            self._came[id(one)].put_nowait(one.tokens)
        self._begin()


@contextmanager
def virtually(
    profile: LatencyProfile, engines: int, slots: int, fail_every: int = 0
) -> Iterator[LiveDriver]:
    """A driver whose episodes are played in memory."""
    client = partial(InMemory, profile=profile, slots=slots, fail_every=fail_every)
    urls = tuple(f"http://127.0.0.1:{number}" for number in range(1, engines + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "Client", client)
        patch.setattr(driver, "WallClock", VirtualClock)
        patch.setattr(asyncio, "Runner", partial(asyncio.Runner, loop_factory=VirtualLoop))
        yield LiveDriver(Servers(urls, slots))

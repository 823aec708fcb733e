"""Clocks of a run in real time: the wall's, and one that stands still while a server has no CPU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

_PROC = Path("/proc")
_LOOK_EVERY_S = 1.0  # for another thread that has become the busiest


class Clock(Protocol):
    """Tells the time and sleeps, in an event loop."""

    def now(self) -> float:
        """Seconds since some instant; never less than before."""
        ...

    async def sleep_until(self, time: float) -> None:
        """Return at the first instant at which ``now()`` is ``time`` or later."""
        ...


class WallClock:
    """The monotonic clock of the machine."""

    def now(self) -> float:
        """See :class:`Clock`."""
        return time.monotonic()

    async def sleep_until(self, time: float) -> None:
        """See :class:`Clock`."""
        await _sleep_until(self, time)


class StolenTimeClock:
    """The monotonic clock less the time that the servers' compute threads waited for a CPU.

    On a machine shared with others, a server is now and then ready to compute but has no CPU. The
    kernel counts that time (``/proc/<pid>/task/<tid>/schedstat``). It is taken off here, so that
    what is measured is the server and not its neighbours. The thread of a server that counts is the
    one that has run longest. With several servers it is the mean of their waits that is taken off:
    they may wait at once, and the sum would turn the clock back.

    The kernel adds a wait when it is over, and the clock then stands still until it is made up for.
    A server that has ended waits no more. Of use for local servers that compute in one thread, as
    llama.cpp here; of those that compute in several processes it takes off too much.

    Parameters
    ----------
    pids : processes of the servers, 1 or more.

    Raises
    ------
    ValueError
        if there is no such process, or the system does not count waits (it is not Linux).
    """

    def __init__(self, pids: Sequence[int]) -> None:
        if not pids:
            raise ValueError("clock: no process of a server is given")
        self._servers = [_Waits(pid) for pid in pids]
        self._last = 0.0

    def now(self) -> float:
        """See :class:`Clock`."""
        monotonic = time.monotonic()
        waited = sum(server.waited_s(monotonic) for server in self._servers)
        self._last = max(self._last, monotonic - waited / len(self._servers))
        return self._last

    async def sleep_until(self, time: float) -> None:
        """See :class:`Clock`."""
        await _sleep_until(self, time)

    def stolen_share(self) -> float:
        """Of the time since this clock was made in which a server ran or wanted to: the wait."""
        self.now()
        waited = sum(server.waited for server in self._servers)
        wanted = waited + sum(server.ran for server in self._servers)
        return waited / wanted if wanted else 0.0


class _Waits:
    """How long the busiest thread of a process has run and waited, in ns, since this was made."""

    def __init__(self, pid: int) -> None:
        self.ran = self.waited = 0
        self._tasks = _PROC / str(pid) / "task"
        self._busiest = self._find()
        if self._busiest is None:
            raise ValueError(
                f"clock: {self._tasks}/*/schedstat cannot be read: there is no process {pid}, or "
                "the system does not count waits for a CPU (only Linux does)"
            )
        self._next_look_s = time.monotonic() + _LOOK_EVERY_S

    def waited_s(self, monotonic: float) -> float:
        """Seconds waited so far."""
        if self._busiest is not None:
            path, ran, waited = self._busiest
            self._busiest = after = _read(path)
            if after is not None:
                self.ran += after[1] - ran
                self.waited += after[2] - waited
        if monotonic >= self._next_look_s:
            self._busiest = self._find()
            self._next_look_s = monotonic + _LOOK_EVERY_S
        return self.waited / 1e9

    def _find(self) -> tuple[Path, int, int] | None:
        try:
            tasks = list(self._tasks.iterdir())
        except OSError:
            return None
        found = [one for task in tasks if (one := _read(task / "schedstat")) is not None]
        return max(found, key=lambda one: one[1], default=None)


def _read(path: Path) -> tuple[Path, int, int] | None:
    """The file of a thread, and the ns it has run and waited; None if it is gone."""
    try:
        ran, waited, _slices = path.read_bytes().split()
        return path, int(ran), int(waited)
    except (OSError, ValueError):
        return None


async def _sleep_until(clock: Clock, time: float) -> None:
    """Sleep as long as a clock says, which may stand still meanwhile."""
    while (left := time - clock.now()) > 0:
        await asyncio.sleep(left)

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_gym.testbed import clock as module
from llmsched_gym.testbed.clock import StolenTimeClock, WallClock

PID = 7


class Machine:
    """A monotonic clock, and threads of one process or more that run and wait, in seconds."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.now = folder, 100.0
        patch.setattr(module, "_PROC", folder)
        patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def thread(self, tid: int, ran: float, waited: float, pid: int = PID) -> None:
        path = self.folder / str(pid) / "task" / str(tid) / "schedstat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{round(ran * 1e9)} {round(waited * 1e9)} 5\n")

    def end(self, pid: int = PID) -> None:
        for path in (self.folder / str(pid) / "task").glob("*/schedstat"):
            path.unlink()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_the_clock_of_the_wall(run: Callable[[Any], Any]) -> None:
    clock = WallClock()

    async def sleeps() -> tuple[float, float]:
        due = clock.now() + 0.03
        await clock.sleep_until(due)
        await clock.sleep_until(due - 1)  # in the past
        return due, clock.now()

    due, after = run(sleeps())
    assert due <= after < due + 1
    assert abs(clock.now() - time.monotonic()) < 0.5


def test_waits_of_the_busiest_thread_are_taken_off(machine: Machine) -> None:
    machine.thread(1, ran=5.0, waited=3.0)
    machine.thread(2, ran=1.0, waited=9.0)
    clock = StolenTimeClock([PID])
    assert clock.now() == 100.0
    machine.now = 102.0
    machine.thread(1, ran=5.5, waited=3.25)
    machine.thread(2, ran=1.0, waited=9.9)
    assert clock.now() == pytest.approx(101.75)
    assert clock.stolen_share() == pytest.approx(0.25 / 0.75)


def test_a_thread_that_becomes_the_busiest_counts_from_then_on(machine: Machine) -> None:
    machine.thread(1, ran=5.0, waited=0.0)
    clock = StolenTimeClock([PID])
    machine.thread(2, ran=50.0, waited=30.0)
    machine.now = 102.0
    assert clock.now() == 102.0  # it has not waited since it was looked at
    machine.thread(2, ran=51.0, waited=30.5)
    machine.now = 102.6
    assert clock.now() == pytest.approx(102.1)


def test_with_several_servers_the_mean_is_taken_off(machine: Machine) -> None:
    for pid in (1, 2):
        machine.thread(1, ran=1.0, waited=0.0, pid=pid)
    clock = StolenTimeClock([1, 2])
    machine.thread(1, ran=1.0, waited=0.5, pid=1)
    machine.thread(1, ran=1.0, waited=0.25, pid=2)
    machine.now = 101.0
    assert clock.now() == pytest.approx(101.0 - 0.375)


def test_a_server_that_has_ended_waits_no_more(machine: Machine) -> None:
    machine.thread(1, ran=1.0, waited=0.0)
    clock = StolenTimeClock([PID])
    machine.thread(1, ran=1.5, waited=0.5)
    machine.now = 101.0
    assert clock.now() == pytest.approx(100.5)
    machine.end()
    machine.now = 105.0
    assert clock.now() == pytest.approx(104.5)


@settings(max_examples=30)  # each writes files
@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), max_size=30))
def test_the_clock_never_goes_back(steps: list[tuple[float, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        machine = Machine(Path(folder), patch)
        machine.thread(1, ran=1.0, waited=0.0)
        clock, before, waited = StolenTimeClock([PID]), 0.0, 0.0
        for passed, share in steps:
            machine.now += passed
            waited += 2 * share * passed  # a wait is told when it is over
            machine.thread(1, ran=1.0, waited=waited)
            now = clock.now()
            assert now >= before
            assert now == pytest.approx(max(before, machine.now - waited), abs=1e-6)
            before = now


def test_sleeping_takes_longer_while_the_server_waits(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.thread(1, ran=1.0, waited=0.0)
    clock = StolenTimeClock([PID])
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        machine.now += seconds
        machine.thread(1, ran=1.0, waited=0.4 if len(slept) == 1 else 0.5)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(clock.sleep_until(101.0))
    assert slept == pytest.approx([1.0, 0.4, 0.1])


def test_no_server_to_look_at(machine: Machine) -> None:
    with pytest.raises(ValueError, match=r"^clock: .*there is no process 7, or the system"):
        StolenTimeClock([PID])
    with pytest.raises(ValueError, match="no process of a server is given"):
        StolenTimeClock([])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts waits for a CPU")
def test_the_clock_of_a_real_process() -> None:
    clock = StolenTimeClock([os.getpid()])
    before, wall = clock.now(), time.monotonic()
    while time.monotonic() < wall + 0.05:
        pass
    assert 0 <= clock.now() - before <= time.monotonic() - wall + 1e-3
    assert 0 <= clock.stolen_share() <= 1

"""The fake server in real time, its faults, and its own process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.testbed.child import NotServed
from llmsched_gym.testbed.client import Answer, Client, Unavailable
from llmsched_gym.testbed.fake import Engine, FakeServer, Sequence, fake_server
from llmsched_gym.testbed.faults import FAULTS, Fault
from llmsched_gym.testbed.prompts import prompt_ids
from support.sampled import sampled
from support.sockets import guarded_sockets

Run = Callable[[Any], Any]
PROFILE = LatencyProfile(
    "by hand", a=20, c=1, d=0.01, p0=20, e=10, f=0.5, g=0, kv_capacity_tokens=1_000
)
MIXED = replace(PROFILE, prefill="mixed", token_budget=32)
LATE_S = 0.5  # a busy machine may be late by so much, which does not add up


def expected_s(profile: LatencyProfile, prompt: int, output: int) -> list[float]:
    """When the tokens of a lone request come, by the engine."""
    engine, now, times = Engine(profile, 1), 0, []
    engine.submit(Sequence(prompt, output))
    while ticks := engine.begin():
        now += ticks
        times += [now / 1e12 for _ in engine.end()]
    return times


@pytest.mark.parametrize("profile", [PROFILE, MIXED])
def test_tokens_come_when_the_engine_says(run: Run, profile: LatencyProfile) -> None:
    async def play() -> Answer:
        async with FakeServer(profile, 2) as server, Client(server.url) as client:
            await client.check()
            return await client.generate(prompt_ids(0, 70), 25)

    answer = run(play())
    expected = expected_s(profile, 70, 25)
    late = [at - answer.sent_s - due for at, due in zip(answer.token_s, expected, strict=True)]
    assert min(late) >= 0
    assert max(late) < LATE_S


def test_a_late_sleep_is_made_up_for(run: Run) -> None:
    async def play() -> Answer:
        async with FakeServer(PROFILE, 2) as server, Client(server.url) as client:
            await client.check()

            def block(tokens: int) -> None:
                if tokens % 4 == 0:  # 15 times, 0.9 s in all
                    time.sleep(0.06)  # the event loop of the server, too

            return await client.generate(prompt_ids(0, 10), 60, block)

    answer = run(play())
    assert answer.token_s[-1] - answer.sent_s < expected_s(PROFILE, 10, 60)[-1] + LATE_S


def test_who_waits_for_a_slot_is_served_in_order(run: Run) -> None:
    async def play() -> None:
        async with FakeServer(PROFILE, 2) as server, Client(server.url) as client:
            await client.check()
            order: list[int] = []

            def first(key: int) -> Callable[[int], None]:
                return lambda tokens: order.append(key) if tokens == 1 else None

            tasks = []
            for key in range(6):
                tasks.append(
                    asyncio.create_task(client.generate(prompt_ids(key, 5), 3, first(key)))
                )
                await asyncio.sleep(0.01)
            await asyncio.gather(*tasks)
            assert order == sorted(order)
            counted = server.counters
            assert counted["requests_processing_max"] == 2
            assert counted["requests_deferred_total"] >= 2
            assert (counted["prompt_tokens_total"], counted["tokens_predicted_total"]) == (30, 18)

    run(play())


def test_the_batch_shares_the_iterations(run: Run) -> None:
    async def play() -> None:
        async with FakeServer(PROFILE, 4) as server, Client(server.url) as client:
            await client.check()
            await asyncio.gather(*(client.generate(prompt_ids(key, 5), 20) for key in range(4)))
            assert 20 <= server.counters["n_decode_total"] <= 24  # and not 80
            assert server.counters["n_busy_slots_per_decode"] > 3

    run(play())


# --- Faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*FAULTS, "400", "599"])
def test_faults_are_written_as_on_a_command_line(text: str) -> None:
    assert Fault.parse(text) == Fault(text)
    whole = Fault.parse(f"{text},first=3,count=2,after=0,seconds=0.25")
    assert whole == Fault(text, first=3, count=2, after=0, seconds=0.25)
    assert [number for number in range(8) if whole.hits(number)] == [3, 4]


@pytest.mark.parametrize(
    ("text", "what"),
    {
        "": "unknown ''",
        "nope": "unknown 'nope', choose from refuse, error, ",
        "200": "unknown '200'",
        "600": "unknown '600'",
        "\u0665\u0660\u0660": "unknown",
        "cut,x=1": "unknown option 'x'; valid: first, count, after, seconds",
        "cut,kind=die": "unknown option 'kind'",
        "cut,first": "first: '' is not a number",
        "cut,first=a": "first: 'a' is not a number",
        "cut,first=-1": "first: -1 is not a whole number of at least 0",
        "cut,count=0": "count: 0 is not a whole number of at least 1",
        "cut,after=0.5": "after: '0.5' is not a number",
        "die,seconds=0": "seconds: 0.0 is not a time above 0",
        "die,seconds=inf": "seconds: inf is not a time above 0",
    }.items(),
)
def test_what_is_no_fault(text: str, what: str) -> None:
    with pytest.raises(ValueError, match="^fault: ") as raised:
        Fault.parse(text)
    assert what in str(raised.value)


async def until_well(client: Client) -> None:
    while not await client.healthy():
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["die", "freeze", "loading"])
@sampled("after", [0, 2])
def test_what_hits_the_whole_server_passes(run: Run, kind: str, after: int) -> None:
    async def play() -> None:
        fault = Fault(kind, first=1, after=after, seconds=1.0)
        async with (
            FakeServer(PROFILE, 2, faults=[fault]) as server,
            Client(server.url, timeout_s=0.3 if kind == "freeze" else 30) as client,
            Client(server.url) as patient,
        ):
            url = server.url
            await patient.generate(prompt_ids(0, 5), 3)
            await client.check()
            began = time.monotonic()
            if (kind, after) == ("loading", 2):
                await client.generate(prompt_ids(1, 5), 3)  # what runs goes on
            else:
                with pytest.raises(Unavailable):
                    await client.generate(prompt_ids(1, 5), 3)
            with pytest.raises(Unavailable):
                await client.generate(prompt_ids(2, 5), 3)
            await until_well(patient)
            assert time.monotonic() - began >= 1.0
            assert server.url == url
            assert (await patient.generate(prompt_ids(3, 5), 3)).output_tokens == 3
            if kind == "die":  # all it knew is lost
                assert server.counters["prompt_tokens_total"] == 5

    run(play())


@pytest.mark.parametrize("kind", ["die", "freeze", "loading"])
def test_a_server_that_is_late_to_start(run: Run, kind: str) -> None:
    async def play() -> None:
        began = time.monotonic()
        faults = [Fault(kind, after=0, seconds=0.5)]
        async with (
            FakeServer(PROFILE, 2, faults=faults) as server,
            Client(server.url, timeout_s=0.1) as client,
            Client(server.url) as patient,
        ):
            with pytest.raises(Unavailable):
                await client.check()
            await until_well(patient)
            assert time.monotonic() - began >= 0.5
            await asyncio.gather(*(patient.generate(prompt_ids(key, 5), 3) for key in range(2)))
            assert server.counters["tokens_predicted_total"] == 6

    run(play())


def test_a_freeze_lengthens_the_iteration_in_flight(run: Run) -> None:
    async def play() -> None:
        fault = Fault("freeze", after=2, seconds=0.4)
        async with FakeServer(PROFILE, 2, faults=[fault]) as server, Client(server.url) as client:
            await client.check()
            answer = await client.generate(prompt_ids(1, 5), 6)
            gaps = [after - before for before, after in pairwise(answer.token_s)]
            assert gaps[1] > 0.35
            assert sum(gaps) - gaps[1] > 0.06  # the others are as long as ever

    run(play())


def test_faults_that_are_added_later_and_one_on_top_of_another(run: Run) -> None:
    async def play() -> None:
        async with FakeServer(PROFILE, 2) as server, Client(server.url) as client:
            await client.generate(prompt_ids(1, 5), 2)
            server.faults += [Fault("503", first=1), Fault("429", first=1, count=2)]
            for status in ("503", "429"):
                with pytest.raises(Unavailable, match=f"status {status}"):
                    await client.generate(prompt_ids(1, 5), 2)
            await client.generate(prompt_ids(1, 5), 2)

    run(play())


# --- What it does not serve -----------------------------------------------------------------------

ASKED: dict[str, Any] = {"model": "fake", "prompt": [1, 2], "max_tokens": 3, "stream": True}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (ASKED | {"model": "other"}, 404),
        (ASKED | {"prompt": "words"}, 400),
        (ASKED | {"prompt": []}, 400),
        (ASKED | {"prompt": [1, -1]}, 400),
        (ASKED | {"prompt": [True]}, 400),
        (ASKED | {"max_tokens": 0}, 400),
        (ASKED | {"max_tokens": 999}, 400),  # prompt and output exceed the KV cache of 1,000
        (ASKED | {"stream": False}, 400),
        ({}, 400),
        ([], 400),
        (None, 400),
    ],
)
def test_bad_requests_are_refused_as_others_do(run: Run, body: Any, status: int) -> None:
    async def play() -> None:
        async with FakeServer(PROFILE, 2) as server, aiohttp.ClientSession() as session:
            async with session.post(f"{server.url}/v1/completions", json=body) as response:
                assert response.status == status
                assert (await response.json())["error"]["code"] == status
            async with session.post(f"{server.url}/v1/completions", data=b"{") as response:
                assert response.status == 400
            assert server.counters["requests_processing_max"] == 0

    run(play())


def test_a_port_that_is_taken(run: Run) -> None:
    async def play() -> None:
        async with FakeServer(PROFILE, 2) as server:
            with pytest.raises(OSError, match="in use"):
                await FakeServer(PROFILE, 2, port=server.port).__aenter__()
            taken = f"^port {server.port}: Address already in use$"
            with pytest.raises(NotServed, match=taken), fake_server(PROFILE, 2, port=server.port):
                pass

    run(play())


# --- In a process of its own ----------------------------------------------------------------------


def test_a_process_of_its_own(run: Run) -> None:
    async def play(url: str) -> None:
        async with Client(url) as client:
            await client.check()
            with pytest.raises(Unavailable, match="status 503"):
                await client.generate(prompt_ids(1, 5), 2)
            answer = await client.generate(prompt_ids(1, 70), 6)
            expected = expected_s(MIXED, 70, 6)[-1]
            assert 0 <= answer.token_s[-1] - answer.sent_s - expected < LATE_S

    async def gone(url: str) -> bool:
        async with Client(url) as client:
            return not await client.healthy()

    with fake_server(MIXED, 2, faults=[Fault("503")]) as url:
        run(play(url))
    assert run(gone(url))


def test_an_engine_that_cannot_be_is_refused_before_a_process_starts() -> None:
    with pytest.raises(ValueError, match="slots: 0 is"), fake_server(PROFILE, 0):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_it_ends_with_the_process_that_started_it(run: Run) -> None:
    program = (
        "import time\n"
        "from llmsched_gym.cluster.preset import load_cluster\n"
        "from llmsched_gym.testbed import fake_server\n"
        "with fake_server(load_cluster('constant').latency, 2) as url:\n"
        "    print(url, flush=True)\n"
        "    time.sleep(60)\n"
    )

    async def until_gone(url: str) -> None:
        async with Client(url, timeout_s=1) as client:
            assert await client.healthy()
            os.kill(process.pid, signal.SIGKILL)
            while await client.healthy():
                await asyncio.sleep(0.02)

    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        run(until_gone(process.stdout.readline().decode().strip()))


def test_nothing_listens_but_on_this_machine(run: Run) -> None:
    async def play() -> None:
        with guarded_sockets() as guard:
            async with FakeServer(PROFILE, 2) as server, Client(server.url) as client:
                await client.check()
                assert server._runner.addresses == [("127.0.0.1", server.port)]
            assert guard.reached == {("127.0.0.1", server.port)}

    run(play())

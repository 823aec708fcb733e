"""Episodes on llama.cpp itself, with the smallest model of random weights."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from llmsched_gym.errors import InputError
from llmsched_gym.testbed.client import Client
from llmsched_gym.testbed.environment import Servers
from llmsched_gym.testbed.events import DOWN, UP
from llmsched_gym.workload.arrivals import Poisson
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage
from llmsched_gym.workload.mixes import Workload
from support.comparing import check_same
from support.live import FAST, check_episode, on, play, replayed, workload

for package in ("gguf", "xllamacpp"):
    pytest.importorskip(package, reason="the extra llmsched-gym[testbed] is not installed")

from llmsched_gym.testbed.serve import serving  # noqa: E402

SLOTS = 4


def counted(url: str) -> dict[str, float]:
    async def ask() -> dict[str, float]:
        async with Client(url) as client:
            return await client.counters()

    return asyncio.run(ask())


def test_it_generates_what_was_asked_for_and_nothing_waits_there() -> None:
    options: dict[str, Any] = {"num_jobs": 20, "workload": workload(jobs=40), "arrival_rate": 30.0}
    with serving("4M", SLOTS) as served, on(Servers(served.url, SLOTS), FAST, **options) as env:
        env.reset(seed=0)
        for policy in ("fcfs", "sjf"):
            before = counted(served.url)
            seen = play(env, policy, seed=1)
            check_episode(env, env.log)
            table, after = env.task_table(), counted(served.url)
            llm = table["kind"] == "llm"
            asked = table["prompt_tokens"][llm].sum(), table["output_tokens"][llm].sum()
            names = "prompt_tokens_total", "tokens_predicted_total"
            assert tuple(after[name] - before[name] for name in names) == asked
            assert after["requests_deferred"] == 0
            assert (table["retries"][llm] == 0).all()
            check_same(replayed(env, env.log, policy, 1), seen)


def test_it_tells_its_slots_and_its_context() -> None:
    with serving("4M", 2, context=64) as served:
        for slots, why in ((3, "slots: it has 2, not 3"), (2, "its context of 256 tokens is too")):
            with on(Servers(served.url, slots), FAST, workload=long_job()) as env:
                with pytest.raises(InputError) as error:
                    env.reset(seed=0)
                assert str(error.value).startswith(f"{served.url}: {why}")


def long_job() -> Workload:
    stage = Stage("long", Kind.LLM, (), (LLMTask(200, 100),))
    bank = JobBank.from_jobs([Job("long", "long", (stage,))])
    return Workload("long", bank, bank, Poisson())


@pytest.mark.slow
def test_a_server_may_be_killed_and_come_back() -> None:
    options: dict[str, Any] = {"num_jobs": 20, "workload": workload(jobs=40), "arrival_rate": 12.0}
    with ExitStack() as stack:
        first, second = (stack.enter_context(serving("4M", SLOTS)) for _ in range(2))
        servers = Servers((first.url, second.url), SLOTS, retries=12)
        env = stack.enter_context(on(servers, FAST, **options))
        env.reset(seed=0)

        def kill_and_restart() -> None:
            time.sleep(0.7)
            os.kill(first.pid, signal.SIGKILL)
            time.sleep(0.2)
            stack.enter_context(serving("4M", SLOTS, port=int(first.url.rpartition(":")[2])))

        killer = threading.Thread(target=kill_and_restart)
        killer.start()
        seen = play(env, "fcfs", seed=1)
        killer.join()
        check_episode(env, env.log)
        kinds = [row.kind for row in env.log.rows]
        assert kinds.count(DOWN) == kinds.count(UP) >= 1
        assert env.task_table()["retries"].max() >= 1
        failed = [request for request in env.log.requests if request.failed]
        assert all(request.engine == 0 for request in failed)
        check_same(replayed(env, env.log, "fcfs", 1), seen)

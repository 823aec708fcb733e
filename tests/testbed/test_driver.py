"""Episodes on servers: as the simulator says, whatever goes wrong, and nothing lost or twice."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
import time
import warnings
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError, Interrupted
from llmsched_gym.testbed.environment import Servers, TestbedEnv
from llmsched_gym.testbed.events import ARRIVE, DOWN, START, TRUNCATE, UP
from llmsched_gym.testbed.fake import FakeServer, fake_server
from llmsched_gym.testbed.faults import Fault
from llmsched_gym.workload.job import Kind
from support.live import EXCLUSIVE, FAST, MIXED, check_episode, cluster, near, on, play, workload
from support.quiet import agree
from support.sampled import sampled
from support.virtual import virtually

SLOTS = 4


@pytest.mark.parametrize("policy", ["fcfs", "sjf", "random"])
@pytest.mark.parametrize("engines", [1, 2])
@pytest.mark.parametrize("profile", [EXCLUSIVE, MIXED], ids=lambda profile: profile.name)
def test_where_nothing_takes_time_but_the_engines_it_is_the_simulator(
    profile: LatencyProfile, engines: int, policy: str
) -> None:
    options: dict[str, Any] = {"num_jobs": 30, "workload": workload(jobs=40), "belief": "prior"}
    options |= {"cluster": cluster(profile, engines, SLOTS), "arrival_rate": 5.0 * engines}
    with virtually(profile, engines, SLOTS) as driver:
        real, simulated = LLMSchedEnv(driver=driver, **options), LLMSchedEnv(**options)
        for seed in range(3):
            play(real, policy, seed)
            play(simulated, policy, seed)
            check_episode(real, driver.log)
            jct_s = real.job_table()["jct_s"]
            np.testing.assert_allclose(jct_s, simulated.job_table()["jct_s"], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("profile", [EXCLUSIVE, MIXED], ids=lambda profile: profile.name)
def test_it_agrees_with_the_simulator_in_real_time(profile: LatencyProfile) -> None:
    options: dict[str, Any] = {"num_jobs": 20, "workload": workload(jobs=40), "belief": "prior"}
    options["arrival_rate"] = 12.0
    with ExitStack() as stack:
        urls = tuple(stack.enter_context(fake_server(profile, SLOTS)) for _ in range(2))
        env = stack.enter_context(on(Servers(urls, SLOTS), profile, **options))
        simulated = LLMSchedEnv(cluster=env.cluster, **options)
        for policy in ("fcfs", "sjf"):
            play(simulated, policy, seed=3)
            predicted_s = simulated.metrics()["mean_jct_s"]
            agree(partial(compare, env, policy, predicted_s))


def compare(env: TestbedEnv, policy: str, predicted_s: float) -> None:
    play(env, policy, seed=3)
    check_episode(env, env.log)
    assert env.metrics()["mean_jct_s"] == pytest.approx(predicted_s, rel=0.05)


def test_servers_count_what_was_asked_for() -> None:
    with near(FAST, SLOTS) as server, on(Servers(server.url, SLOTS), belief="bayes") as env:
        asked = np.zeros(2, int)
        for policy in ("fcfs", "llmsched"):
            play(env, policy)
            check_episode(env, env.log)
            table = env.task_table()
            llm = table["kind"] == "llm"
            asked += table["prompt_tokens"][llm].sum(), table["output_tokens"][llm].sum()
            assert (table["retries"][llm] == 0).all()
            assert (table["sent_s"][llm] < table["first_token_s"][llm]).all()
            assert (table["first_token_s"][llm] <= table["end_s"][llm]).all()
        counters = server.counters
        counted = counters["prompt_tokens_total"] - 16, counters["tokens_predicted_total"] - 2
        assert counted == tuple(asked)  # but for the first request
        assert counters["requests_deferred_total"] == 0
        assert 1 < counters["requests_processing_max"] <= SLOTS


# --- When something goes wrong --------------------------------------------------------------------


@sampled(
    "fault",
    [
        Fault("refuse", first=3, count=2),
        Fault("503", first=3, count=2),
        Fault("500", first=5),
        Fault("error", first=3, count=2),
        Fault("cut", first=4, after=2),
        Fault("cut", first=2, after=0, count=3),
        Fault("silent", first=4, count=2),
        Fault("loading", first=3, after=1, seconds=0.3),
        Fault("die", first=6, after=2, seconds=0.4),
        Fault("freeze", first=6, after=1, seconds=1.2),
    ],
    every=4,
    ids=lambda fault: f"{fault.kind}-{fault.first}",
)
def test_tasks_are_asked_for_again_and_none_is_lost(fault: Fault) -> None:
    with (
        near(FAST, SLOTS, fault) as server,
        on(Servers(server.url, SLOTS, timeout_s=0.8)) as env,
    ):
        play(env)
        check_episode(env, env.log)
        failed = [request for request in env.log.requests if request.failed]
        retries = env.task_table()["retries"]
        assert 1 <= len(failed) == retries[retries > 0].sum()
        assert all(server.url in request.failed for request in failed)
        assert server.counters["requests_processing_max"] <= SLOTS


@sampled("kind", ["400", "404", "few", "usage", "nousage", "garbage", "context"], every=4)
def test_what_cannot_get_better_ends_the_episode_at_once(kind: str) -> None:
    with (
        near(FAST, SLOTS, Fault(kind, first=5)) as server,
        on(Servers(server.url, SLOTS)) as env,
    ):
        with pytest.raises(InputError, match=r"\(job \d, stage \d, task \d, sent once\)$") as error:
            play(env)
        assert str(error.value).startswith(f"{server.url}: ")
        assert "\n" not in str(error.value)
        assert env.log.requests[-1].failed
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(0)
        play(env)  # the next one goes well
        check_episode(env, env.log)


def test_a_server_that_stays_away_ends_the_episode() -> None:
    fault = Fault("die", first=5, seconds=30.0)
    with (
        near(FAST, SLOTS, fault) as server,
        on(Servers(server.url, SLOTS, retries=2)) as env,
    ):
        begin = time.monotonic()
        with pytest.raises(
            InputError, match=r"refused \(job \d, stage \d, task \d, sent 3 times\)"
        ):
            play(env)
        assert 0.3 < time.monotonic() - begin < 5  # 0.1 and 0.2 s between the tries
        assert np.isnan(env.job_table()["completion_s"]).any()
        assert set(env.task_table()["retries"]) <= {-1, 0, 1, 2}


def test_nothing_new_goes_to_a_server_that_is_down() -> None:
    fault = Fault("die", first=4, after=1, seconds=0.6)
    with (
        near(FAST, SLOTS, fault) as server,
        near(FAST, SLOTS) as other,
        on(Servers((server.url, other.url), SLOTS), arrival_rate=15.0, num_jobs=12) as env,
    ):
        play(env)
        check_episode(env, env.log)
        kinds = [row.kind for row in env.log.rows]
        assert kinds.count(DOWN) == kinds.count(UP) == 1
        away = env.log.rows[kinds.index(DOWN) : kinds.index(UP)]
        llm = env.task_table()["kind"] == "llm"
        placed = [row.executor for row in away if row.kind == START and llm[row.what]]
        assert placed
        assert set(placed) == {1}
        assert away[0].what == 0


# --- Time -----------------------------------------------------------------------------------------


def test_what_happens_while_an_agent_thinks_keeps_its_time_and_order() -> None:
    with near(FAST, SLOTS) as server, on(Servers(server.url, SLOTS)) as env:
        observation, _ = env.reset(seed=1)
        over = False
        while not over:
            time.sleep(0.03)
            action = int(observation["action_mask"].argmax())
            observation, _, over, _, _ = env.step(action)
        check_episode(env, env.log)
        state = env.state
        arrived = [row.tick for row in env.log.rows if row.kind == ARRIVE]
        late_s = (np.array(arrived) - state.jobs["arrival"]) / TICKS_PER_SECOND
        assert (late_s >= 0).all()
        assert late_s.max() < 0.03  # a completion was taken for earlier than it was, at most
        tools = state.stages["kind"][state.tasks["stage"]] == Kind.REGULAR
        took = (state.tasks["end"] - state.tasks["start"] - state.tasks["demand"])[tools]
        assert (took >= 30e9).all()  # ticks: it began after the thinking


@pytest.mark.slow
def test_a_time_limit_truncates_and_cancels() -> None:
    with (
        near(EXCLUSIVE, SLOTS) as server,
        on(Servers(server.url, SLOTS), EXCLUSIVE, time_limit=1.0) as env,
    ):
        *_, last = play(env)
        _, _, terminated, truncated, info = last
        assert (terminated, truncated) == (False, True)
        assert info["makespan_s"] == 1.0
        assert info["jobs_completed"] < 8
        assert env.log.rows[-1].kind == TRUNCATE
        assert "cancelled" in {request.failed for request in env.log.requests}
        _becomes_idle(server)
        *_, last = play_to(env, 30.0)
        assert last[2]


def play_to(env: Any, limit_s: float) -> list[Any]:
    observation, _ = env.reset(seed=0, options={"time_limit": limit_s})
    seen = [env.step(int(observation["action_mask"].argmax()))]
    while not (seen[-1][2] or seen[-1][3]):
        seen.append(env.step(int(seen[-1][0]["action_mask"].argmax())))
    return seen


def test_a_reset_gives_up_what_runs() -> None:
    with near(FAST, SLOTS) as server, on(Servers(server.url, SLOTS)) as env:
        observation, _ = env.reset(seed=0)
        for _ in range(4):
            observation, *_ = env.step(int(observation["action_mask"].argmax()))
        play(env, seed=1)
        check_episode(env, env.log)
        assert env.step(0)[2]  # it is over, and stays so


def _command(number: int, frame: Any) -> None:
    raise Interrupted


@sampled("handler", [_command, signal.default_int_handler])
@sampled("after_s", [0.25, 0.1])
def test_ctrl_c_leaves_nothing_behind_and_what_was_measured(after_s: float, handler: Any) -> None:
    with near(FAST, SLOTS) as server, on(Servers(server.url, SLOTS), belief="prior") as env:
        play(env)  # compiles
        before = signal.signal(signal.SIGINT, handler)
        timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                play(env, seed=1)
        finally:
            signal.signal(signal.SIGINT, before)
        env.close()
        _becomes_idle(server)
        table, log = env.task_table(), env.log
        assert len(table["job"]) == log.tasks
        assert np.isfinite(table["end_s"]).sum() >= sum(not one.failed for one in log.requests)
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(0)
        play(env)
        check_episode(env, env.log)


def _becomes_idle(server: FakeServer) -> None:
    """A server notices at the end of its iteration that nobody listens."""
    end = time.monotonic() + 5
    while server.counters["requests_processing"] + server.counters["requests_deferred"]:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_tools_can_be_processes() -> None:
    with near(FAST, SLOTS) as server, on(Servers(server.url, SLOTS, tools="process")) as env:
        play(env)
        check_episode(env, env.log)
        table, tasks = env.task_table(), env.state.tasks
        tools = table["kind"] == "regular"
        took = (table["end_s"] - table["sent_s"])[tools]
        assert (took >= tasks["demand"][tools] / TICKS_PER_SECOND).all()


# --- The environment ------------------------------------------------------------------------------


def test_gymnasium_has_no_complaint() -> None:
    with (
        near(FAST, SLOTS) as server,
        on(Servers(server.url, SLOTS), num_jobs=3) as env,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)


def test_a_live_environment_cannot_be_copied_or_go_back() -> None:
    with near(FAST, SLOTS) as server, on(Servers(server.url, SLOTS)) as env:
        env.reset(seed=0)
        for twin_of in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="^an episode that runs on servers cannot"):
                twin_of(env)
        with pytest.raises(RuntimeError, match="^only a simulated cluster can go back"):
            env.snapshot()
        with pytest.raises(RuntimeError, match="^only a simulated cluster can go back"):
            env.restore(None)  # type: ignore[arg-type]


def test_before_the_first_reset_there_is_nothing() -> None:
    with on(Servers("http://127.0.0.1:1", 2)) as env:
        for look in (env.task_table, lambda: env.log, lambda: env.step(0)):
            with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
                look()


def test_an_event_loop_that_runs_is_no_place_for_it() -> None:
    import asyncio

    async def inside(env: Any) -> None:
        env.reset(seed=0)

    with near(FAST, SLOTS) as server, on(Servers(server.url, SLOTS)) as env:
        with pytest.raises(RuntimeError, match="^an event loop runs here"):
            asyncio.run(inside(env))
        play(env)

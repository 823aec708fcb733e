"""Engines whose prompts share iterations with decoding, and that do not wait for anybody."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.cluster.latency import MOST_CHUNKS, ClusterError, LatencyProfile
from llmsched_gym.cluster.limits import TaskTooLarge, check_countable, check_fits
from llmsched_gym.cluster.preset import PRESETS, Cluster, load_cluster
from llmsched_gym.cluster.serving import SERVING
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage
from support.hand import TEN, call, job, ms, one_engine, play, tool
from support.naive import lone_task_ticks

FIVE = LatencyProfile("five", a=10.0, c=2.0, d=0.0, p0=1.0, e=5.0, f=1.0, g=0.0,
                      kv_capacity_tokens=1000, prefill="mixed", token_budget=6)  # fmt: skip


# --- Worked out by hand, in ms ---


def test_a_prompt_is_cut_into_what_decoding_leaves_of_the_budget() -> None:
    # A is prefilled 0-8 (5 + 3) and decodes 8-20. B comes at 9 and joins at 20: 5 of its 8 prompt
    # tokens beside A's 1, 20-32 (5 + 5 + 2), then the other 3, 32-42, when A has its fourth and
    # last token and B its first. B alone 42-54.
    state = play([job(call(LLMTask(3, 4))), job(call(LLMTask(8, 2)))], [0, 9], one_engine(FIVE))
    assert ms(state.tasks["end"]) == [42, 54]


def test_prompts_take_the_budget_in_order_of_dispatch() -> None:
    # 4 tokens of A and 2 of B 0-11 (5 + 6): A has its only token. 3 left of B and 3 of C 11-22: B
    # is done. 1 left of C 22-28, then it decodes 28-40.
    tasks = LLMTask(4, 1), LLMTask(5, 1), LLMTask(4, 2)
    state = play([job(call(*tasks))], [0], one_engine(FIVE))
    assert ms(state.tasks["end"]) == [11, 22, 40]


def test_attention_is_paid_by_each_prompt_for_what_came_before() -> None:
    # Chunks of 6, 6 and 2 tokens: 6^2, 12^2 - 6^2, 14^2 - 12^2 pairs of 0.5 ms; e and f thrice.
    latency = replace(FIVE, g=0.5)
    state = play([job(call(LLMTask(14, 1)))], [0], one_engine(latency))
    assert ms(state.tasks["end"]) == [3 * 5 + 14 + 0.5 * 14**2]
    # two prompts of 3 in one iteration: 3^2 each, not 6^2
    state = play([job(call(LLMTask(3, 1), LLMTask(3, 1)))], [0], one_engine(latency))
    assert ms(state.tasks["end"]) == [5 + 6 + 0.5 * 18] * 2


def test_the_shortest_prefill_holds_for_each_mixed_iteration() -> None:
    # 5 + 1 is below 20; A decodes in B's iteration: 20 + 2 + 0.5 * 2 tokens held
    latency = replace(FIVE, p0=20.0, d=0.5)
    state = play([job(call(LLMTask(1, 2))), job(call(LLMTask(1, 1)))], [0, 20], one_engine(latency))
    assert ms(state.tasks["end"]) == [43, 43]


def test_who_comes_late_to_a_boundary_waits_for_the_next() -> None:
    # As in time: A: prefill 0-30, iteration 30-42, then 42-54. B comes at 42, joins at 54 and is
    # prefilled 54-84 while A waits; both decode 84-98.
    late = replace(TEN, joins="late")
    state = play([job(call(LLMTask(1, 4))), job(call(LLMTask(1, 2)))], [0, 42], one_engine(late))
    assert ms(state.tasks["end"]) == [98, 98]


def test_only_an_engine_at_rest_takes_a_late_task_at_once() -> None:
    # The first of two is prefilled 0-30 alone, the second 30-60; the first then decodes with it.
    late = replace(TEN, joins="late")
    state = play([job(call(LLMTask(1, 2), LLMTask(1, 2)))], [0], one_engine(late))
    assert ms(state.tasks["end"]) == [74, 74]
    # after the last completion the engine is at rest at that very instant
    chain = job(call(LLMTask(1, 1)), call(LLMTask(1, 1), parents=(0,)))
    assert ms(play([chain], [0], one_engine(late)).tasks["end"]) == [30, 60]


def test_a_stage_that_becomes_ready_at_a_completion_misses_the_iteration() -> None:
    # B's call is ready at 42, where its tool ends and A's iteration does: 54, as above.
    late = replace(TEN, joins="late")
    jobs = [job(call(LLMTask(1, 4))), job(tool(0.042), call(LLMTask(1, 2), parents=(0,)))]
    assert ms(play(jobs, [0, 0], one_engine(late)).tasks["end"]) == [98, 42, 98]


# --- What they mean for demand and load ---


@given(
    st.floats(0.01, 50.0),
    st.lists(st.floats(0.0, 5.0), min_size=4, max_size=4),
    st.integers(9, 60),
    st.integers(1, 300),
    st.integers(1, 20),
)
def test_the_demand_of_a_task_is_what_it_takes_alone(
    p0: float, rest: list[float], budget: int, prompt: int, output: int
) -> None:
    d, e, f, g = rest
    latency = LatencyProfile(
        "m", 3.0, 0.5, d / 100, p0, e, f, g / 100, 10**6, prefill="mixed", token_budget=budget
    )
    state = play([job(call(LLMTask(prompt, output)))], [0], Cluster("one", latency))
    demand = latency.demand_ticks(prompt, output)
    assert state.tasks["end"][0] == demand == lone_task_ticks(latency, prompt, output)
    assert latency.demand_s(prompt, output) == pytest.approx(demand / TICKS_PER_SECOND)


def test_a_budget_without_end_prefills_a_lone_prompt_as_ever() -> None:
    one = load_cluster("a100_llama2_7b").latency
    wide = replace(one, prefill="mixed", token_budget=10**6)
    prompts, outputs = np.arange(1, 4000, 37), np.arange(1, 400, 3)[: len(range(1, 4000, 37))]
    assert (one.demand_ticks(prompts, outputs) == wide.demand_ticks(prompts, outputs)).all()


@pytest.mark.parametrize("serving", SERVING)
@pytest.mark.parametrize("preset", ["a100_llama2_7b", "h100_llama2_70b_tp4_measured"])
def test_at_load_one_an_engine_that_is_always_full_just_keeps_up(preset: str, serving: str) -> None:
    """The slot-seconds of many tasks are the time that the slots of a full engine take for them."""
    rng = np.random.default_rng(0)
    tasks = [LLMTask(*map(int, pair)) for pair in rng.integers((50, 20), (900, 300), (300, 2))]
    cluster = load_cluster(preset, serving=serving, engines=1)
    state = play([job(call(*tasks))], [0], cluster)
    prompt, output = state.tasks["prompt_tokens"], state.tasks["output_tokens"]
    expected = cluster.latency.slot_seconds(prompt, output, cluster.max_batch).sum()
    taken = state.jobs["completion"][0] / TICKS_PER_SECOND * cluster.max_batch
    assert expected == pytest.approx(taken, rel=0.06)


# --- How they are said ---


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        ({"prefill": "mixed"}, "token_budget: missing, prefill=mixed needs it"),
        ({"token_budget": 512}, "token_budget: only prefill=mixed has one"),
        ({"prefill": "chunked"}, "prefill: unknown 'chunked', choose from exclusive, mixed"),
        ({"joins": "early"}, "joins: unknown 'early', choose from at_boundary, late"),
        ({"joins": None}, "joins: unknown None"),
        ({"prefill": ["mixed"]}, "prefill: unknown"),
        ({"prefill": "mixed", "token_budget": 1}, "token_budget: 1 is not a whole number of at"),
        ({"prefill": "mixed", "token_budget": 9.5}, "token_budget: 9.5 is not a whole number"),
        ({"prefill": "mixed", "token_budget": True}, "token_budget: True is not a whole number"),
        ({"prefill": "mixed", "token_budget": 8}, "token_budget: 8 tokens an iteration leave none"),
    ],
)
def test_half_a_trait_in_a_file_is_refused(
    tmp_path: Path, traits: dict[str, Any], message: str
) -> None:
    content = yaml.safe_load((PRESETS / "constant.yaml").read_text())
    content["latency"] |= traits
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ClusterError) as error:
        load_cluster(file)
    assert str(error.value).startswith(f"{file}: {message}")


def test_traits_in_a_file_by_name_and_changed(tmp_path: Path) -> None:
    content = yaml.safe_load((PRESETS / "constant.yaml").read_text())
    content["latency"] |= {"prefill": "mixed", "token_budget": 512, "joins": "late"}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    cluster = load_cluster(file)
    assert (cluster.latency.token_budget, cluster.latency.late) == (512, True)
    assert load_cluster(file, serving="ideal") == load_cluster("constant")
    assert load_cluster("constant", serving="vllm", token_budget=512) == cluster
    assert load_cluster("constant").latency.prefill == "exclusive"
    for name, one in SERVING.items():
        latency = load_cluster("constant", serving=name).latency
        assert (latency.mixed, latency.late) == (one.prefill == "mixed", one.joins == "late")
        assert one.source
    with pytest.raises(ClusterError, match="serving: unknown 'vLLM', choose from ideal, llama_cpp"):
        load_cluster("constant", serving="vLLM")
    with pytest.raises(ClusterError, match="token_budget: only prefill=mixed has one"):
        load_cluster("constant", serving="sglang", token_budget=512)
    with pytest.raises(ClusterError, match="token_budget: 2048 tokens an iteration leave none"):
        load_cluster("constant", serving="vllm", max_batch=2048)


def test_prompts_of_endless_iterations_are_refused() -> None:
    tiny = LatencyProfile("t", 1e-9, 0, 0, 1e-9, 0, 0, 0, 10**12, prefill="mixed", token_budget=2)
    cluster = Cluster("tiny", tiny, max_batch=1)
    long = JobBank.from_jobs([Job("a", "j", (Stage("s", Kind.LLM, (), (LLMTask(2**31 - 1, 1),)),))])
    with pytest.raises(TaskTooLarge, match=f"takes more than {MOST_CHUNKS} iterations with the"):
        check_fits(long, cluster)
    with pytest.raises(TaskTooLarge, match=f"past job j takes more than {MOST_CHUNKS} iterations"):
        check_countable(long, cluster)
    with pytest.raises(ValueError, match="^tokens: a prompt of 2147483647 tokens takes more than"):
        tiny.demand_ticks(2**31 - 1, 1)

"""Training by stable-baselines3: its files, and that a run can stop and go on anywhere."""

import csv
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO

from llmsched_gym.agents.base import make_policy
from llmsched_gym.agents.decima.policy import Decima
from llmsched_gym.agents.learning import checkpoint
from llmsched_gym.agents.learning.checkpoint import CheckpointError
from llmsched_gym.agents.learning.course import BEST, STATE
from llmsched_gym.agents.learning.episodes import make_environments, play
from llmsched_gym.agents.learning.held_out import HeldOut
from llmsched_gym.agents.learning.run import Training, TrainingError
from llmsched_gym.agents.ppo import training as module
from llmsched_gym.agents.ppo.network import GraphPolicy
from llmsched_gym.agents.ppo.options import PPOOptions
from llmsched_gym.agents.ppo.training import clusters_of, train
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.sb3 import SB3VecEnv
from llmsched_gym.env.scenario import Scenario
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.mixes import make_workload
from support import runs
from support.runs import ENVIRONMENT, finish, rows, stopped, training
from support.sampled import sampled

TINY = PPOOptions(  # episodes of 40 to 50 decisions go on from one iteration to the next
    iterations=4,
    environments=3,
    steps=20,
    discount_s=20.0,
    trace_s=5.0,
    learning_rate=2e-3,
    learning_rate_end=5e-4,
    epochs=2,
    minibatch=30,
    clip=0.2,
    entropy=0.01,
    value=0.5,
    max_gradient=0.5,
    target_kl=None,
    evaluate_every=2,
    evaluation_episodes=2,
    embedding=8,
    hidden=16,
    head=32,
)


def learnt(folder: Path) -> dict[str, Any]:
    return runs.learnt(folder, "ppo")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    train(training(folder), TINY)
    return folder


# --- what it writes -------------------------------------------------------------------------------


def test_files_of_a_run(uninterrupted: Path) -> None:
    assert sorted(os.listdir(uninterrupted)) == [
        *("best.safetensors", "held_out.csv", "learning_curve.png"),
        *("progress.csv", "training.safetensors"),
    ]
    table = rows(uninterrupted)
    assert [int(row["iteration"]) for row in table] == [0, 1, 2, 3, 4]
    assert [bool(row["jct_s"]) for row in table] == [True, False, True, False, True]
    assert [int(row["decisions"]) for row in table] == [0, 60, 120, 180, 240]
    rates = [float(row["learning_rate"]) for row in table[1:]]
    assert rates == pytest.approx([2e-3, 1.5e-3, 1e-3, 5e-4])
    with (uninterrupted / "held_out.csv").open() as lines:
        held_out = {row["policy"]: float(row["mean_jct_s"]) for row in csv.DictReader(lines)}
    assert list(held_out) == ["ppo", "fcfs", "sjf", "srtf", "llmsched", "resource_srtf"]
    assert held_out["ppo"] == min(float(row["jct_s"]) for row in table if row["jct_s"])


def test_the_log_tells_what_happened(uninterrupted: Path) -> None:
    table = [{k: float(v or "nan") for k, v in row.items()} for row in rows(uninterrupted)[1:]]
    for row in table:
        assert 0 < row["mean_jobs"] <= 8
        assert 0 < row["entropy"] < 4
        assert row["value"] > 0
        assert row["decisions_per_s"] > 0
        numbers = [value for name, value in row.items() if name not in ("jct_s", "return")]
        assert np.isfinite(numbers).all()
    returns = [row["return"] for row in table]
    assert math.isnan(returns[0]), "no episode has ended so early"
    assert returns[-1] < 0 or returns[-2] < 0


def test_the_best_weights_play(uninterrupted: Path) -> None:
    policy = make_policy("ppo", checkpoint=str(uninterrupted / BEST))
    held_out = HeldOut([ENVIRONMENT], TINY.evaluation_episodes)
    best_jct_s = min(float(row["jct_s"]) for row in rows(uninterrupted) if row["jct_s"])
    assert held_out.mean_jct_s(lambda seen: np.asarray(policy.act(seen))) == best_jct_s
    finish(policy, LLMSchedEnv(**ENVIRONMENT, strict=True))


@pytest.mark.parametrize("kind", ["ppo", "decima"])
def test_checkpoints_of_others_are_refused(uninterrupted: Path, kind: str) -> None:
    """The networks are alike, but what trained them is not: results would be misattributed."""
    other = {"ppo": Decima.shipped / "mixed_bayes.safetensors", "decima": uninterrupted / BEST}
    theirs = {"ppo": "decima", "decima": "ppo"}[kind]
    with pytest.raises(ValueError, match=f"of '{theirs}', not of '{kind}'") as caught:
        make_policy(kind, checkpoint=str(other[kind]))
    assert isinstance(caught.value.__cause__, CheckpointError)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"of 'ppo training', not of '{kind}'"):
        make_policy(kind, checkpoint=str(uninterrupted / STATE))


# --- the same again -------------------------------------------------------------------------------


def test_the_seed_determines_everything(uninterrupted: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # what was drawn before makes no difference
    np.random.seed(123)  # noqa: NPY002
    train(training(tmp_path / "same"), TINY)
    assert learnt(tmp_path / "same") == learnt(uninterrupted)
    train(training(tmp_path / "other", seed=1), TINY)
    same, other = (learnt(folder)["state"] for folder in (uninterrupted, tmp_path / "other"))
    for name in ("features_extractor.network.heads.weight", "features_extractor.critic.job.weight"):
        assert same[f"network.{name}"] != other[f"network.{name}"]
    assert same["clusters.first_seed"] != other["clusters.first_seed"]


def test_checkpoints_on_the_way_change_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    train(training(tmp_path, checkpoint_minutes=1e-9), TINY)
    assert learnt(tmp_path) == learnt(uninterrupted)


@sampled("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(
    ("place", "name", "call", "when", "done"),
    [
        (SB3VecEnv, "step_wait", 1, "before", 0),
        (SB3VecEnv, "step_wait", 33, "after", 1),
        (MaskablePPO, "train", 3, "before", 2),
        (GraphPolicy, "evaluate_actions", 2, "before", 0),  # of 4 an iteration
        (GraphPolicy, "evaluate_actions", 15, "after", 3),
        (module, "iterate", 2, "after", 1),
    ],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    name: str,
    call: int,
    when: str,
    done: int,
    error: type[BaseException],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(place, name, stopped(getattr(place, name), call, error, when))
        with pytest.raises(error):
            train(training(tmp_path), TINY)
    assert int(rows(tmp_path)[-1]["iteration"]) == done
    train(training(tmp_path, resume=True), TINY)
    assert learnt(tmp_path) == learnt(uninterrupted)


def test_a_run_may_be_interrupted_in_every_iteration(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(TINY.iterations):
        with monkeypatch.context() as patch:
            second = stopped(module.iterate, 2, KeyboardInterrupt, "before")
            patch.setattr(module, "iterate", second)
            with pytest.raises(KeyboardInterrupt):
                train(training(tmp_path, resume=True), TINY)
        if int(rows(tmp_path)[-1]["iteration"]) == TINY.iterations - 1:
            break
    train(training(tmp_path, resume=True), TINY)
    assert learnt(tmp_path) == learnt(uninterrupted)


def test_the_end_of_the_time_is_no_end(uninterrupted: Path, tmp_path: Path) -> None:
    train(training(tmp_path, minutes=1e-9), TINY)
    assert [row["iteration"] for row in rows(tmp_path)] == ["0"]
    train(training(tmp_path, resume=True), TINY)
    assert learnt(tmp_path) == learnt(uninterrupted)


def test_resuming_a_finished_run_changes_nothing(uninterrupted: Path) -> None:
    before = learnt(uninterrupted)
    train(training(uninterrupted, resume=True), TINY)
    assert learnt(uninterrupted) == before


# --- what is wrong --------------------------------------------------------------------------------


def refused(run: Training, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        train(run, TINY)
    assert "\n" not in str(caught.value)


def test_other_settings_cannot_go_on(uninterrupted: Path) -> None:
    before = (uninterrupted / STATE).read_bytes()
    refused(training(uninterrupted), "there is a training run already")
    settings = {"seed": 0, "agent": {"clip": 0.1}, "minutes": 3}
    message = r"made with agent.clip=0.2, cannot go on with agent.clip=0.1"
    refused(training(uninterrupted, resume=True, settings=settings), message)
    assert (uninterrupted / STATE).read_bytes() == before


def test_the_state_of_another_learner_cannot_go_on(uninterrupted: Path, tmp_path: Path) -> None:
    tensors, meta = checkpoint.load(uninterrupted / STATE, "ppo training")
    checkpoint.save(tmp_path / STATE, tensors, {**meta, "kind": "decima training"})
    refused(training(tmp_path, resume=True), "of 'decima training', not of 'ppo training'")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"environment": ENVIRONMENT | {"belief": "none"}}, "^belief: .* prior, bayes or oracle"),
        ({"rollout": "ray"}, "^rollout: .* ray is of no use, choose threads"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    refused(training(tmp_path, **changed), message)
    assert os.listdir(tmp_path) == []


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_jobs", "given", "room"), [(8, None, 0), (200, None, 256), (8, 50, 50)]
)
def test_observations_have_room_for_256_stages_unless_it_is_said(
    tmp_path: Path, num_jobs: int, given: int | None, room: int
) -> None:
    environment = ENVIRONMENT | {"num_jobs": num_jobs, "max_stages": given}
    scenario = Scenario(**environment)
    with clusters_of(training(tmp_path, environment=environment), TINY, scenario) as clusters:
        assert clusters.scenario.max_stages == (room or scenario.max_stages)
        assert clusters.num_envs == TINY.environments
        assert clusters.scenario.max_stages <= 256


def test_times_that_are_not_given_scale_with_arrivals() -> None:
    slow, fast = (PPOOptions(discount_s=7.0).at_rate(rate) for rate in (0.5, 2.0))
    assert (slow.discount_s, fast.discount_s) == (7, 7)
    assert slow.trace_s is not None
    assert fast.trace_s is not None
    assert slow.trace_s == 4 * fast.trace_s > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("iterations", 0), ("environments", 0), ("steps", 0), ("minibatch", 0), ("clip", 0.0)),
        *(("learning_rate", math.inf), ("discount_s", -1.0), ("trace_s", 0.0), ("entropy", -0.1)),
        *(("value", math.nan), ("target_kl", 0.0)),
    ],
)
def test_options_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"agent.{name}: "):
        PPOOptions(**{name: value})


def test_times_may_be_infinite() -> None:
    assert PPOOptions(discount_s=math.inf, trace_s=math.inf).at_rate(1.0).trace_s == math.inf


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_little_training_beats_random_and_fcfs(tmp_path: Path) -> None:
    environment = {
        "workload": make_workload("mixed", jobs_per_application=100),
        "cluster": load_cluster("a100_llama2_7b", engines=1, max_batch=8),
        "num_jobs": 20,
        "load": 2.0,
        "belief": "bayes",
    }
    train(training(tmp_path, environment=environment), PPOOptions(iterations=20))
    table = rows(tmp_path)
    jct_s = [float(row["jct_s"]) for row in table if row["jct_s"]]
    assert jct_s[-1] < 0.8 * jct_s[0], "what it does not owe to its first weights"
    assert float(table[-1]["explained"]) > 0.5
    envs = make_environments(environment, 16)

    def mean_jct_s(name: str, **options: Any) -> float:
        policy = make_policy(name, **options)
        policy.reset(0)
        played = play(envs, lambda seen: np.asarray(policy.act(seen)), range(16))
        return -float(played.reward.sum(axis=0).mean()) / envs.scenario.num_jobs

    learnt_jct_s = mean_jct_s("ppo", checkpoint=str(tmp_path / BEST))
    assert learnt_jct_s < 0.85 * mean_jct_s("random")
    assert learnt_jct_s < 0.7 * mean_jct_s("fcfs")

"""Training the GNN as Decima is trained: its files, and that a run can stop and go on anywhere."""

import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsched_gym.agents.base import make_policy
from llmsched_gym.agents.decima import training as module
from llmsched_gym.agents.decima.options import DecimaOptions
from llmsched_gym.agents.decima.rollout import Chunk, Task, weights_of
from llmsched_gym.agents.gnn.network import GNNetwork
from llmsched_gym.agents.gnn.options import GNNOptions
from llmsched_gym.agents.learning.course import BEST
from llmsched_gym.agents.learning.held_out import HeldOut
from llmsched_gym.agents.learning.run import TrainingError
from llmsched_gym.env.scheduling import LLMSchedEnv
from support import runs
from support.pages import programs
from support.runs import ENVIRONMENT, finish, rows, stopped, training

TINY = GNNOptions(
    iterations=2,
    groups=2,
    replicas=4,
    horizon_start_s=10.0,
    horizon_end_s=40.0,
    discount_s=20.0,
    minibatch=100,
    warm_start="sjf",
    tuning_iterations=1,
    warm_start_decisions=20,
    evaluate_every=2,
    evaluation_episodes=2,
    layers=1,
)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    module.train(training(folder), TINY)
    return folder


def learnt(folder: Path) -> dict[str, Any]:
    return runs.learnt(folder, "gnn")


def test_a_run_learns_by_every_part_of_it(uninterrupted: Path) -> None:
    table = rows(uninterrupted)
    assert [int(row["iteration"]) for row in table] == [0, 1, 2, 3]
    assert float(table[1]["gradient"]) > 0
    assert float(table[2]["entropy"]) > 0
    state = learnt(uninterrupted)["state"]
    assert any(state["network.weights"]), "imitation and tuning change the linear part"


def test_the_best_weights_play(uninterrupted: Path) -> None:
    policy = make_policy("gnn", checkpoint=str(uninterrupted / BEST))
    held_out = HeldOut([ENVIRONMENT], TINY.evaluation_episodes)
    best_jct_s = min(float(row["jct_s"]) for row in rows(uninterrupted)[1:] if row["jct_s"])
    assert held_out.mean_jct_s(lambda seen: np.asarray(policy.act(seen))) == pytest.approx(
        best_jct_s
    )
    finish(policy, LLMSchedEnv(**ENVIRONMENT, strict=True))


def test_checkpoints_of_others_are_refused(uninterrupted: Path) -> None:
    with pytest.raises(ValueError, match="of 'gnn', not of 'decima'"):
        make_policy("decima", checkpoint=str(uninterrupted / BEST))


def test_the_seed_determines_everything(uninterrupted: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # what was drawn before makes no difference
    module.train(training(tmp_path / "same"), TINY)
    assert learnt(tmp_path / "same") == learnt(uninterrupted)
    module.train(training(tmp_path / "other", seed=1), TINY)
    same, other = (learnt(folder)["state"] for folder in (uninterrupted, tmp_path / "other"))
    assert same["network.of_pool.weight"] != other["network.of_pool.weight"]


@pytest.mark.parametrize(
    ("name", "when", "call", "done"),
    [("update", "before", 2, 1), ("iterate", "after", 1, 0), ("tune", "after", 1, 2)],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    when: str,
    call: int,
    done: int,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, name, stopped(getattr(module, name), call, KeyboardInterrupt, when))
        with pytest.raises(KeyboardInterrupt):
            module.train(training(tmp_path), TINY)
    assert int(rows(tmp_path)[-1]["iteration"]) == done
    module.train(training(tmp_path, resume=True), TINY)
    assert learnt(tmp_path) == learnt(uninterrupted)


def test_the_state_of_another_learner_cannot_go_on(uninterrupted: Path) -> None:
    options = DecimaOptions(groups=2)
    with pytest.raises(TrainingError, match="of 'gnn training', not of 'decima training'"):
        module.train(training(uninterrupted, resume=True), options)


def test_parts_do_not_change_a_step(
    pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads at once in the layers of PyTorch Geometric do not get in each other's way."""
    run = training(tmp_path)
    chunk = Chunk(run, TINY, range(TINY.groups))
    network = module.begin(run, TINY).network
    played = chunk.collect(Task(0, 20.0, weights_of(network)))
    samples = module.samples_of(played, TINY.replicas, 20.0)
    loss, gradients = partial(module.ppo_loss, clip=0.2, bonus=0.01), []
    for part in (10**6, 20):
        monkeypatch.setattr(module, "PART", part)
        learner = module.begin(run, TINY)
        module._step(learner, samples, loss, 0.5, pool)
        gradients.append([p.grad for p in learner.network.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers", 0, "agent.layers: 0 is not a whole number of at least 1"),
        ("heads", 1025, "agent.heads: 1025 is above 1024"),
        ("heads", 3, "agent.embedding: 16 is not a multiple of agent.heads=3"),
        ("discount_s", -1.0, "agent.discount_s: -1.0 is not a positive number"),
        ("replicas", 3, "agent.replicas: 3 is odd"),
    ],
)
def test_options_out_of_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GNNOptions(**{name: value})
    assert GNNOptions(discount_s=math.inf).discount_s == math.inf


def test_options_make_the_network() -> None:
    options = GNNOptions(embedding=6, hidden=5, head=4, layers=1, heads=3)
    assert isinstance(network := options.make_network(), GNNetwork)
    assert network.options == {"embedding": 6, "hidden": 5, "head": 4, "layers": 1, "heads": 3}


def test_a_network_of_ones_own_is_trained_and_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of the page."""
    (program,) = (one for one in programs("docs/gnn.md") if one.file == "my_gnn.py")
    (tmp_path / "my_gnn.py").write_text(program.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_gnn", raising=False)
    run, mine = training(tmp_path / "out"), "my_gnn:MyNetwork"
    module.train(run, replace(TINY, network=mine))
    path = str(tmp_path / "out" / BEST)
    policy = make_policy("gnn", checkpoint=path, network=mine)
    finish(policy, LLMSchedEnv(**ENVIRONMENT, strict=True))
    with pytest.raises(ValueError, match="its tensors are not those of a network"):
        make_policy("gnn", checkpoint=path)

"""The policy: legal, batched as single, and clear about what it lacks."""

import sys
from pathlib import Path

import numpy as np
import pytest

from llmsched_gym.agents.base import make_policy
from llmsched_gym.agents.gnn.policy import GNN
from llmsched_gym.agents.learning.checkpoint import CheckpointError, save
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.mixes import make_workload
from support.noisy import noisy_gnn
from support.observations import observation, random_graph, stacked
from support.runs import finish


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    network = noisy_gnn(1, 0.1, embedding=6, hidden=8, head=7, layers=1)
    path = tmp_path / "noisy.safetensors"
    save(path, network.state_dict(), {"kind": "gnn", "network": network.options})
    return str(path)


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("workload", ["chain_like", "planning", "predefined"])
def test_it_finishes_an_episode(checkpoint: str, workload: str, greedy: bool) -> None:
    jobs = make_workload(workload, jobs_per_application=40)
    env = LLMSchedEnv(jobs, num_jobs=6, load=3.0, strict=True)  # takes offence at illegal actions
    finish(make_policy("gnn", checkpoint=checkpoint, greedy=greedy), env)


def test_a_batch_is_chosen_as_its_members_are(checkpoint: str) -> None:
    rng = np.random.default_rng(0)
    members = [random_graph(rng) for _ in range(12)]
    members.append(observation([], [], max_stages=20, max_edges=190))
    policy = make_policy("gnn", checkpoint=checkpoint)
    expected = [policy.act(member) for member in members]
    assert np.asarray(policy.act(stacked(members))).tolist() == expected
    assert len(set(expected)) > 1


def test_the_network_that_ships_is_used_by_default() -> None:
    shipped = sorted(file.stem for file in GNN.shipped.iterdir())
    assert "mixed_bayes" in shipped
    one, other = make_policy("gnn"), make_policy("gnn", checkpoint="mixed_bayes")
    seen = random_graph(np.random.default_rng(1))
    assert one.act(seen) == other.act(seen)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"layers": 3}, "its tensors are not those of a network {'layers': 3}"),
        ({"embedding": 6, "heads": 4}, "embedding: 6 is not a multiple of 4 heads"),
        ({"depth": 3}, "how its network is made: embedding, hidden, head, layers, heads are"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_named(
    tmp_path: Path, network: dict[str, int], message: str
) -> None:
    path = tmp_path / "other.safetensors"
    save(path, noisy_gnn().state_dict(), {"kind": "gnn", "network": network})
    with pytest.raises(ValueError, match=message) as caught:
        make_policy("gnn", checkpoint=str(path))
    assert isinstance(caught.value.__cause__, CheckpointError)
    assert str(caught.value).startswith(f"policy gnn: {path}: ")
    assert "\n" not in str(caught.value)


def test_without_what_training_needs_it_says_what_to_install(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "llmsched_gym.agents.gnn.network")
    for name in [one for one in sys.modules if one.partition(".")[0] == "torch_geometric"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"policy gnn: it needs torch_geometric.*: .*\[train\]"):
        make_policy("gnn", checkpoint=checkpoint)

"""The policy: legal, reproducible, and clear about what it lacks."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llmsched_gym.agents.base import Policy, make_policy, rows_in_use
from llmsched_gym.agents.decima import policy as module
from llmsched_gym.agents.decima.network import DecimaNetwork, graph_of
from llmsched_gym.agents.learning.checkpoint import CheckpointError, save
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.mixes import WORKLOADS, make_workload
from support.noisy import noisy
from support.observations import Observation, observation, random_graph, stacked
from support.runs import finish


def saved(path: Path, network: DecimaNetwork) -> str:
    save(path, network.state_dict(), {"kind": "decima", "network": network.options})
    return str(path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    return saved(tmp_path / "noisy.safetensors", noisy(1, 0.1, embedding=5, hidden=12, head=7))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder instead of the one of shipped checkpoints."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr(module.Decima, "shipped", folder)
    return folder


def members(seed: int, number: int = 12) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [random_graph(rng) for _ in range(number)]


def chosen(policy: Policy, seen: Observation) -> list[int]:
    return np.asarray(policy.act(seen)).ravel().tolist()


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("workload", sorted({*WORKLOADS} - {"traces", "described"}))
def test_it_finishes_an_episode_of_every_workload(
    checkpoint: str, workload: str, greedy: bool
) -> None:
    jobs = make_workload(workload, jobs_per_application=40)
    env = LLMSchedEnv(jobs, num_jobs=6, load=3.0, strict=True)  # takes offence at illegal actions
    policy = make_policy("decima", checkpoint=checkpoint, greedy=greedy)
    finish(policy, env)


def test_a_batch_is_chosen_as_its_members_are(checkpoint: str) -> None:
    policy = make_policy("decima", checkpoint=checkpoint)
    everything = [*members(0), observation([], [], max_stages=20, max_edges=190)] * 2
    expected = [policy.act(member) for member in everything]
    batch = stacked(everything)
    assert chosen(policy, batch) == expected
    two = {key: table.reshape(2, -1, *table.shape[1:]) for key, table in batch.items()}
    found = np.asarray(policy.act(two))
    assert found.tolist() == [expected[:13], expected[13:]]
    legal = np.take_along_axis(two["action_mask"], found[..., None], -1)
    assert legal.all()


def test_a_network_that_only_prefers_plays_resource_srtf(tmp_path: Path) -> None:
    """Without the network, in batches and alone; one that draws still asks it."""
    network = DecimaNetwork()
    network.begin_as_resource_srtf()
    path = saved(tmp_path / "first.safetensors", network)
    policy, drawing = (make_policy("decima", checkpoint=path, greedy=one) for one in (True, False))
    policy = pickle.loads(pickle.dumps(policy))
    drawing.reset(0)
    env = LLMSchedEnv(make_workload("mixed", jobs_per_application=40), num_jobs=20, load=3.0)
    seen, _ = env.reset(seed=0)
    over, chose, drawn = False, 0, 0
    while not over:
        wanted = make_policy("resource_srtf").act(seen)
        assert policy.act(seen) == wanted
        assert isinstance(policy.act(seen), int)
        assert chosen(policy, stacked([seen, seen])) == [wanted, wanted]
        drawn += drawing.act(seen) != wanted
        chose += seen["action_mask"].sum() > 1
        seen, _, over, _, _ = env.step(wanted)
    assert chose > 50
    assert drawn > 0


def test_the_greedy_action_is_the_likeliest(checkpoint: str) -> None:
    policy, network = (
        make_policy("decima", checkpoint=checkpoint),
        noisy(1, 0.1, embedding=5, hidden=12, head=7),
    )
    for seen in members(1):
        decision = network(graph_of(seen))
        rows = torch.cat((decision.stage, decision.wait)).argmax().item()
        action = policy.act(seen)
        assert action == (rows if rows < len(decision.stage) else len(seen["action_mask"]) - 1)


def test_sampling_is_determined_by_the_seed(checkpoint: str) -> None:
    policy = make_policy("decima", checkpoint=checkpoint, greedy=False)
    batch, drawn = stacked(members(2)), []
    state = torch.get_rng_state()
    for seed in (3, 3, 4):
        policy.reset(seed)
        drawn.append([chosen(policy, batch) for _ in range(10)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[0][1]
    assert torch.equal(torch.get_rng_state(), state)
    for rows in drawn[0]:
        assert batch["action_mask"][np.arange(12), rows].all()
    policy.reset(3)
    singles = [policy.act(member) for member in members(2)]
    assert singles == drawn[0][0]


def test_it_draws_nothing_if_greedy_and_leaves_all_else_as_it_is(checkpoint: str) -> None:
    policy = make_policy("decima", checkpoint=checkpoint)
    policy.reset(5)
    threads, batch = torch.get_num_threads(), stacked(members(3))
    before = {name: table.copy() for name, table in batch.items()}
    policy.act(batch)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert policy.rng.random() == np.random.default_rng(5).random()
    for name, table in batch.items():
        np.testing.assert_array_equal(table, before[name])


def test_it_takes_tables_without_unused_rows(checkpoint: str) -> None:
    policy = make_policy("decima", checkpoint=checkpoint)
    batch = stacked(members(4))
    smaller = {**rows_in_use(batch)}
    used = smaller["stage_mask"].shape[-1]
    smaller["action_mask"] = batch["action_mask"][:, [*range(used), -1]]
    expected = [action if action < 20 else used for action in chosen(policy, batch)]
    assert chosen(policy, smaller) == expected


# --- checkpoints ----------------------------------------------------------------------------------


def test_shipped_checkpoints_are_found_by_name(shipped: Path) -> None:
    with pytest.raises(ValueError, match="no file 'mixed_bayes'.*none is shipped"):
        make_policy("decima")
    first, second = noisy(1), noisy(2)
    saved(shipped / "mixed_bayes.safetensors", first)
    saved(shipped / "mixed_prior.safetensors", second)
    for options, network in (({}, first), ({"checkpoint": "mixed_prior"}, second)):
        found = make_policy("decima", **options).network  # type: ignore[attr-defined]
        assert torch.equal(found.stage_in.weight, network.stage_in.weight)
    with pytest.raises(
        ValueError, match=r"no file 'mixd'; .* shipped one \(mixed_bayes, mixed_prior\)"
    ):
        make_policy("decima", checkpoint="mixd")


def test_a_checkpoint_that_cannot_be_used_is_named(tmp_path: Path, checkpoint: str) -> None:
    network, path = noisy(), tmp_path / "other.safetensors"
    weights = network.state_dict()

    def assert_refused(message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            make_policy("decima", checkpoint=str(path))
        assert isinstance(caught.value.__cause__, CheckpointError)
        assert str(caught.value).startswith(f"policy decima: {path}: ")
        assert "\n" not in str(caught.value)

    path.write_bytes(Path(checkpoint).read_bytes()[:-1])
    assert_refused("damaged")
    save(path, weights, {"kind": "decima training", "network": network.options})
    assert_refused("of 'decima training', not of 'decima'")
    for options in (None, {"layers": 3}, {"hidden": -1}, 7):
        save(path, weights, {"kind": "decima", "network": options})
        assert_refused("does not say how its network is made")
    save(path, weights, {"kind": "decima", "network": {"embedding": 9}})
    assert_refused("not those of a network {'embedding': 9")
    save(path, {**weights, "more": torch.zeros(1)}, {"kind": "decima", "network": {}})
    assert_refused("not those of a network")


def test_options_are_checked(checkpoint: str) -> None:
    with pytest.raises(ValueError, match="greedy: 'yes' is not true or false"):
        make_policy("decima", checkpoint=checkpoint, greedy="yes")
    with pytest.raises(ValueError, match="no file '7'"):
        make_policy("decima", checkpoint=7)


def test_without_what_training_needs_it_says_what_to_install(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "llmsched_gym.agents.learning.checkpoint")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match=r"policy decima: it needs safetensors: .*\[train\]"):
        make_policy("decima", checkpoint=checkpoint)


def test_nobody_else_has_to_wait_for_torch() -> None:
    code = "import llmsched_gym.agents, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

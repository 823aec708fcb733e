"""Training Decima: what is computed from episodes, and that a run can stop and go on anywhere."""

import contextlib
import csv
import math
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents.decima import rollout
from llmsched_gym.agents.decima import training as ppo
from llmsched_gym.agents.decima.network import WAIT, DecimaNetwork, entropy, log_prob
from llmsched_gym.agents.decima.options import DecimaOptions
from llmsched_gym.agents.decima.rollout import COLLECTORS, Chunk, Rollout, Task, pack, unpack
from llmsched_gym.agents.learning.course import BEST, STATE
from llmsched_gym.agents.learning.run import Training, TrainingError
from support import runs
from support.runs import ENVIRONMENT, rows, stopped
from support.sampled import sampled

TINY = DecimaOptions(
    iterations=3,
    groups=3,
    replicas=4,
    horizon_start_s=10.0,
    horizon_end_s=40.0,
    discount_s=20.0,
    minibatch=100,
    warm_start="sjf",
    tuning_iterations=2,
    warm_start_decisions=20,
    evaluate_every=2,
    evaluation_episodes=2,
)


def training(folder: Path, **changed: Any) -> Training:
    settings = {"seed": changed.get("seed", 0), "agent": {"groups": 3}}
    return runs.training(folder, **({"workers": 2, "settings": settings} | changed))


def collected(folder: Path, options: DecimaOptions = TINY, **task: Any) -> list[Rollout]:
    """What an untrained network does for 20 s, all in one chunk."""
    run = training(folder)
    network = ppo.begin(run, options).network
    chunk = Chunk(run, options, range(options.groups))
    given: dict[str, Any] = {
        "iteration": 0,
        "limit_s": 20.0,
        "weights": rollout.weights_of(network),
        "expert": None,
    }
    return chunk.collect(Task(**(given | task)))


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> list[Rollout]:
    return collected(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> DecimaNetwork:
    """The one that acted in ``rollouts``."""
    network = ppo.begin(training(tmp_path_factory.mktemp("run")), TINY).network
    assert isinstance(network, DecimaNetwork)
    return network


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


# --- returns and baseline -------------------------------------------------------------------------


@st.composite
def episodes(draw: st.DrawFn, replicas: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rewards [T, N] and times [T + 1, N]; steps may take no time, and episodes end early."""
    steps, count = draw(st.integers(1, 6)), replicas * draw(st.integers(1, 2))
    gaps = [
        [draw(st.sampled_from((0.0, 0.5, 1.0, 7.0))) for _ in range(count)] for _ in range(steps)
    ]
    lasting = np.array(gaps)
    for number in range(count):
        lasting[draw(st.integers(1, steps)) :, number] = 0.0
    time_s = np.concatenate([np.zeros((1, count)), lasting.cumsum(0)])
    rates = np.array([[draw(st.integers(0, 5)) for _ in range(count)] for _ in range(steps)])
    return -rates * lasting, time_s


@given(episodes(), st.sampled_from((1.0, 30.0, math.inf)))
def test_returns_to_go_are_discounted_sums(
    episode: tuple[np.ndarray, np.ndarray], discount_s: float
) -> None:
    reward, time_s = episode
    returns = ppo.returns_to_go(reward, time_s, discount_s)
    steps, count = reward.shape
    for number in range(count):
        for step in range(steps + 1):
            wanted = sum(
                math.exp(-(time_s[later, number] - time_s[step, number]) / discount_s)
                * reward[later, number]
                for later in range(step, steps)
            )
            assert returns[step, number] == pytest.approx(wanted)


@given(episodes(replicas=3))
def test_the_baseline_is_the_mean_of_the_replicas_at_the_same_time(
    episode: tuple[np.ndarray, np.ndarray],
) -> None:
    reward, time_s = episode
    returns = ppo.returns_to_go(reward, time_s, math.inf)
    baseline = ppo.baseline(returns, time_s, replicas=3)

    def at(second: float, number: int) -> float:
        """The return-to-go of an episode at a time."""
        left = 0.0
        for step in range(len(reward)):
            begin, end = time_s[step, number], time_s[step + 1, number]
            if end > max(begin, second):
                left += reward[step, number] * (end - max(begin, second)) / (end - begin)
        return left

    for number in range(reward.shape[1]):
        group = range(number // 3 * 3, number // 3 * 3 + 3)
        for step in range(len(reward) + 1):
            wanted = np.mean([at(time_s[step, number], other) for other in group])
            assert baseline[step, number] == pytest.approx(wanted)


def test_a_baseline_by_hand() -> None:
    """Two jobs, each 4 s of work: one replica serves one after the other, the other both by turns.

    The first has 2 jobs for 4 s, then 1 for 4 s. The second has 2 jobs for 8 s.
    """
    time_s = np.array([[0.0, 0.0], [4.0, 2.0], [8.0, 8.0]])
    reward = np.array([[-8.0, -4.0], [-4.0, -12.0]])
    returns = ppo.returns_to_go(reward, time_s, math.inf)
    assert returns.tolist() == [[-12, -16], [-4, -12], [0, 0]]
    # after 4 s the second still owes 8, after 2 s the first 8
    assert ppo.baseline(returns, time_s, 2).tolist() == [[-14, -14], [-6, -10], [0, 0]]


# --- samples and losses ---------------------------------------------------------------------------


def test_log_probabilities_are_those_of_collection(
    rollouts: list[Rollout], network: DecimaNetwork
) -> None:
    samples = ppo.samples_of(rollouts, TINY.replicas, 20.0)
    merged = ppo.merge(samples)
    assert len(merged.chosen) > 100
    with torch.no_grad():
        again = log_prob(network(merged.graph), merged.chosen)
    torch.testing.assert_close(again, merged.log_prob, atol=1e-6, rtol=0)
    loss = ppo.ppo_loss(network, merged, clip=0.2, bonus=0.0)
    assert loss.kl.item() == pytest.approx(0, abs=1e-4)
    assert loss.clipped.item() == 0
    assert loss.total.item() == pytest.approx(-merged.advantage.sum().item(), abs=1e-2)


def test_merging_keeps_what_was_chosen(rollouts: list[Rollout]) -> None:
    samples = ppo.samples_of(rollouts, TINY.replicas, 20.0)
    merged = ppo.merge(samples)
    waits = torch.cat([sample.chosen for sample in samples]) == WAIT
    assert ((merged.chosen == WAIT) == waits).all()
    assert merged.graph.legal[merged.chosen[~waits]].all()
    rows = torch.cat([s.graph.row[s.chosen[s.chosen != WAIT]] for s in samples])
    assert (merged.graph.row[merged.chosen[~waits]] == rows).all()


def test_only_choices_are_learnt_from(rollouts: list[Rollout]) -> None:
    ((trajectory, choices),) = rollouts
    for one in choices:
        actions = torch.bincount(one.graph.job_cluster[one.graph.stage_job[one.graph.legal]])
        assert (actions + one.graph.can_wait.long() >= 2).all()
    assert sum(len(one.chosen) for one in choices) <= trajectory.decisions.sum()
    assert (trajectory.time_s <= 20.0).all()


def test_advantages_are_returns_less_the_baseline(rollouts: list[Rollout]) -> None:
    ((trajectory, choices),) = rollouts
    returns = ppo.returns_to_go(trajectory.reward, trajectory.time_s, 20.0)
    less = returns - ppo.baseline(returns, trajectory.time_s, TINY.replicas)
    raw = np.concatenate([less[one.step, one.environment] for one in choices])
    made = torch.cat(
        [sample.advantage for sample in ppo.samples_of(rollouts, TINY.replicas, 20.0)]
    ).numpy()
    np.testing.assert_allclose(made, (raw - raw.mean()) / raw.std(), rtol=1e-4, atol=1e-5)


def test_an_unclipped_gradient_raises_what_was_better_than_the_baseline(
    rollouts: list[Rollout], network: DecimaNetwork
) -> None:
    """At ratio 1 the gradient is the policy gradient: advantages times the log-probabilities'."""
    sample = ppo.merge(ppo.samples_of(rollouts, TINY.replicas, 20.0))
    parameters = list(network.score.parameters())
    loss = ppo.ppo_loss(network, sample, 0.2, 0.0).total
    reinforce = -(log_prob(network(sample.graph), sample.chosen) * sample.advantage).sum()
    for one, other in zip(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(reinforce, parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_parts_do_not_change_a_step(
    rollouts: list[Rollout],
    pool: ThreadPoolExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = ppo.samples_of(rollouts, TINY.replicas, 20.0)
    loss = partial(ppo.ppo_loss, clip=0.2, bonus=0.01)
    sums, gradients = [], []
    for part in (10**6, 50):
        monkeypatch.setattr(ppo, "PART", part)
        learner = ppo.begin(training(tmp_path), TINY)
        sums.append(ppo._step(learner, samples, loss, 0.5, pool)[0])
        gradients.append([p.grad for p in learner.network.parameters() if p.grad is not None])
    assert sums[0] == pytest.approx(sums[1], rel=1e-4, abs=1e-2)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 40))
def test_splitting_leaves_nothing_out(sizes: list[int], size: int) -> None:
    samples = [
        ppo.Sample(None, torch.full((n,), k), torch.zeros(n), torch.zeros(n))  # type: ignore[arg-type]
        for k, n in enumerate(sizes)
    ]
    parts = ppo.split(samples, size)
    assert [sample for part in parts for sample in part] == samples
    assert all(parts)
    largest = max(sum(len(sample.chosen) for sample in part) for part in parts)
    assert largest <= 1.5 * size + max(sizes)


def test_imitation_makes_what_the_expert_did_likelier(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    rollouts = collected(tmp_path, expert="sjf")
    learner = ppo.begin(training(tmp_path), TINY)
    sample = ppo.merge(ppo.samples_of(rollouts, TINY.replicas, 20.0))

    def likelihood() -> float:
        with torch.no_grad():
            return log_prob(learner.network(sample.graph), sample.chosen).mean().item()

    before = likelihood()
    rng = np.random.default_rng(0)
    for _ in range(5):
        samples = ppo.samples_of(rollouts, TINY.replicas, 20.0)
        ppo.update(learner, samples, partial(ppo.imitation_loss, bonus=0.0), TINY, rng, pool)
    assert likelihood() > before + 0.1


@pytest.mark.slow
def test_imitation_with_a_bonus_for_entropy_stays_less_certain(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    samples = ppo.samples_of(collected(tmp_path, expert="sjf"), TINY.replicas, 20.0)
    sample = ppo.merge(samples)

    def entropy_after(bonus: float) -> float:
        learner = ppo.begin(training(tmp_path), TINY)
        rng = np.random.default_rng(0)
        loss_of = partial(ppo.imitation_loss, bonus=bonus)
        for _ in range(20):
            ppo.update(learner, samples, loss_of, TINY, rng, pool)
        with torch.no_grad():
            return entropy(sample.graph, learner.network(sample.graph)).mean().item()

    assert entropy_after(1.0) > 1.1 * entropy_after(0.0)


def test_nothing_to_choose_is_nothing_to_learn(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    rollouts = collected(tmp_path, limit_s=1e-9)
    samples = ppo.samples_of(rollouts, TINY.replicas, 20.0)
    learner = ppo.begin(training(tmp_path), TINY)
    loss = partial(ppo.ppo_loss, clip=0.2, bonus=0.0)
    happened = ppo.update(learner, samples, loss, TINY, np.random.default_rng(0), pool)
    assert samples == []
    assert set(happened.values()) == {0.0}


# --- chunks ---------------------------------------------------------------------------------------


def test_episodes_do_not_depend_on_the_number_of_chunks(
    rollouts: list[Rollout], network: DecimaNetwork, tmp_path: Path
) -> None:
    task = Task(0, 20.0, rollout.weights_of(network), None)
    with COLLECTORS["threads"](training(tmp_path, workers=3), TINY) as collect:
        parts = collect(task)
    whole = rollouts[0].trajectory
    assert [part.trajectory.reward.shape[1] for part in parts] == [TINY.replicas] * 3
    for number, part in enumerate(parts):
        steps = len(part.trajectory.reward)
        chunk = slice(TINY.replicas * number, TINY.replicas * (number + 1))
        np.testing.assert_array_equal(part.trajectory.reward, whole.reward[:steps, chunk])
        np.testing.assert_array_equal(part.trajectory.decisions, whole.decisions[chunk])


def test_replicas_have_the_same_jobs_and_act_differently(rollouts: list[Rollout]) -> None:
    time_s = rollouts[0].trajectory.time_s
    first = time_s[0].reshape(TINY.groups, TINY.replicas)
    assert (first == first[:, :1]).all()  # the first arrival
    assert len(np.unique(first[:, 0])) == TINY.groups
    assert len({tuple(column) for column in time_s.T}) > TINY.groups


def test_packing_is_exact(rollouts: list[Rollout]) -> None:
    again = unpack(pack(rollouts[0]))
    for one, other in zip(rollouts[0].choices, again.choices, strict=True):
        assert (one.step == other.step).all()
        assert (one.environment == other.environment).all()
        for mine, theirs in zip(one.graph, other.graph, strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(one.chosen, other.chosen)
        assert torch.equal(one.log_prob, other.log_prob)
    nothing = rollouts[0]._replace(choices=[])
    assert unpack(pack(nothing)).choices == []


# --- whole runs -----------------------------------------------------------------------------------


def learnt(folder: Path) -> dict[str, Any]:
    return runs.learnt(folder, "decima")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    ppo.train(training(folder), TINY)
    return folder


def test_files_of_a_run(uninterrupted: Path) -> None:
    assert sorted(os.listdir(uninterrupted)) == [
        *("best.safetensors", "held_out.csv", "learning_curve.png"),
        *("progress.csv", "training.safetensors"),
    ]
    table = rows(uninterrupted)
    assert [int(row["iteration"]) for row in table] == [0, 1, 2, 3, 4, 5]
    assert [bool(row["jct_s"]) for row in table] == [True, False, True, False, True, True]
    decisions = [int(row["decisions"]) for row in table]
    assert decisions == sorted(decisions)
    with (uninterrupted / "held_out.csv").open() as lines:
        held_out = {row["policy"]: float(row["mean_jct_s"]) for row in csv.DictReader(lines)}
    assert list(held_out) == ["decima", "fcfs", "sjf", "srtf", "llmsched", "resource_srtf"]
    assert held_out["decima"] == min(float(row["jct_s"]) for row in table if row["jct_s"])


def test_the_seed_determines_everything(uninterrupted: Path, tmp_path: Path) -> None:
    ppo.train(training(tmp_path / "same"), TINY)
    assert learnt(tmp_path / "same") == learnt(uninterrupted)
    ppo.train(training(tmp_path / "other", seed=1), TINY)
    assert learnt(tmp_path / "other")["state"] != learnt(uninterrupted)["state"]


@sampled(
    ("name", "when", "call", "done"),
    [
        *(("update", "before", 2, 1), ("update", "after", 3, 2), ("iterate", "after", 1, 0)),
        *(("tune", "after", 2, 4), ("tune", "before", 1, 3), ("tune", "after", 1, 3)),
    ],
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
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(ppo, name, stopped(getattr(ppo, name), call, KeyboardInterrupt, when))
        with pytest.raises(KeyboardInterrupt):
            ppo.train(training(folder), TINY)
    assert int(rows(folder)[-1]["iteration"]) == done
    ppo.train(training(folder, resume=True), TINY)
    assert learnt(folder) == learnt(uninterrupted)


def test_iterations_after_the_last_checkpoint_are_done_again(
    uninterrupted: Path, tmp_path: Path
) -> None:
    """As after a kill: rows of the log are there that the checkpoint knows nothing of."""
    folder = tmp_path / "out"
    options = TINY
    run = training(folder, minutes=1e-9)
    ppo.train(run, options)  # one iteration at most
    table = (uninterrupted / "progress.csv").read_text().splitlines(keepends=True)
    (folder / "progress.csv").write_text("".join(table[:4]) + table[4][:20])  # cut by the kill
    ppo.train(training(folder, resume=True), options)
    assert learnt(folder) == learnt(uninterrupted)


def test_resuming_a_finished_run_changes_nothing(uninterrupted: Path) -> None:
    before = learnt(uninterrupted)
    ppo.train(training(uninterrupted, resume=True), TINY)
    assert learnt(uninterrupted) == before


def test_resuming_without_a_checkpoint_begins(uninterrupted: Path, tmp_path: Path) -> None:
    ppo.train(training(tmp_path / "out", resume=True), TINY)
    assert learnt(tmp_path / "out") == learnt(uninterrupted)


def test_a_run_is_not_overwritten(uninterrupted: Path) -> None:
    with pytest.raises(TrainingError, match="there is a training run already"):
        ppo.train(training(uninterrupted), TINY)


def test_other_settings_cannot_go_on(uninterrupted: Path) -> None:
    settings = {"seed": 0, "agent": {"groups": 4}, "minutes": 3}
    run = training(uninterrupted, resume=True, settings=settings)
    with pytest.raises(TrainingError, match=r"made with agent.groups=3, cannot go on with .*=4"):
        ppo.train(run, TINY)


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_damaged_checkpoint_is_told(uninterrupted: Path, tmp_path: Path, damage: str) -> None:
    content = (uninterrupted / (STATE if damage == "cut" else BEST)).read_bytes()
    (tmp_path / STATE).write_bytes(content[:-100] if damage == "cut" else content)
    with pytest.raises(TrainingError, match=STATE):
        ppo.train(training(tmp_path, resume=True), TINY)
    assert os.listdir(tmp_path) == [STATE]


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"workers": 4}, TINY, "rollout.num_workers: 4 .* 3 groups"),
        ({"environment": ENVIRONMENT | {"belief": "none"}}, TINY, "belief: the network"),
        ({}, DecimaOptions(warm_start="sfj"), "agent.warm_start: policy: unknown 'sfj'"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, changed: dict[str, Any], options: DecimaOptions, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        ppo.train(training(tmp_path, **changed), options)
    assert os.listdir(tmp_path) == []


def test_times_that_are_not_given_scale_with_arrivals() -> None:
    options = DecimaOptions(horizon_end_s=7.0).at_rate(0.5)
    assert (options.horizon_start_s, options.horizon_end_s, options.discount_s) == (80, 7, 80)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("iterations", -1), ("replicas", 1), ("minibatch", 0), ("clip", 0.0)),
        *(("learning_rate", math.inf), ("discount_s", -1.0), ("entropy", -0.1)),
        ("horizon_end_s", math.nan),
    ],
)
def test_options_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"agent.{name}: "):
        DecimaOptions(**{name: value})
    assert DecimaOptions(discount_s=math.inf).discount_s == math.inf


# --- Ray ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ray_learns_the_same_though_a_worker_dies(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tmp_path / "dead"

    class Mortal:
        def __init__(self, *arguments: Any) -> None:
            from llmsched_gym.agents.decima.rollout import RemoteChunk

            self.chunk = RemoteChunk(*arguments)

        def collect(self, task: Task) -> list[rollout.Packed]:
            packed = self.chunk.collect(task)
            if task.iteration == 1:
                with contextlib.suppress(FileExistsError), dead.open("x"):
                    os.kill(os.getpid(), signal.SIGKILL)
            return packed

    monkeypatch.setattr(rollout, "RemoteChunk", Mortal)
    ppo.train(training(tmp_path / "out", rollout="ray"), TINY)
    assert dead.exists()
    assert learnt(tmp_path / "out") == learnt(uninterrupted)


def test_a_ray_that_is_not_there(tmp_path: Path) -> None:
    run = training(tmp_path, rollout="ray", ray_address="127.0.0.1:1")
    with pytest.raises(TrainingError, match=r"ray.address: no Ray at '127.0.0.1:1'"):
        ppo.train(run, TINY)

"""stable-baselines3: clusters as it wants them, the policy it trains, and what that learns from."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecNormalize

from llmsched_gym.agents.decima.network import graph_of
from llmsched_gym.agents.ppo.buffer import GraphRolloutBuffer
from llmsched_gym.agents.ppo.network import GraphPolicy
from llmsched_gym.env.features import CLUSTER
from llmsched_gym.env.sb3 import RewardScaling, SB3VecEnv
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.env.vector import LLMSchedVectorEnv
from support.runs import ENVIRONMENT

torch.set_num_threads(1)  # tests run side by side

SMALL: dict[str, Any] = {**ENVIRONMENT, "num_jobs": 3, "max_stages": 40}
LIMITS = (None, 8.0)  # seconds, after which episodes are truncated

Observation = dict[str, np.ndarray[Any, Any]]


def make(count: int = 3, **options: Any) -> SB3VecEnv:
    given = {"autoreset_mode": "Disabled", "threads": 1, **SMALL, **options}
    return SB3VecEnv(LLMSchedVectorEnv(count, **given))


def random_actions(rng: np.random.Generator, seen: Observation, illegal: float = 0.0) -> Any:
    """Legal ones, but for a share that is anything at all."""
    masks = seen["action_mask"]
    legal = ((1 + rng.random(masks.shape)) * masks).argmax(axis=1)
    anything = rng.integers(masks.shape[1], size=len(masks))
    return np.where(rng.random(len(masks)) < illegal, anything, legal)


def member(seen: Observation, number: int) -> Observation:
    return {name: array[number] for name, array in seen.items()}


def time_s(seen: Observation) -> Any:
    return seen["cluster"][..., CLUSTER["time_s"]]


def without_clock(infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The infos, but for the wall-clock time."""
    return [
        {**info, "episode": {**info["episode"], "t": 0.0}} if "episode" in info else info
        for info in infos
    ]


def check_same(ours: Any, theirs: Any) -> None:
    """The same observations, rewards, ends and infos."""
    np.testing.assert_equal(ours[:3], theirs[:3])
    np.testing.assert_equal(without_clock(ours[3]), without_clock(theirs[3]))


# --- the environments -----------------------------------------------------------------------------


@pytest.mark.parametrize("belief", ["prior", "bayes"])
@pytest.mark.parametrize("time_limit", LIMITS)
def test_each_cluster_is_the_single_environment(time_limit: float | None, belief: str) -> None:
    options = {**SMALL, "time_limit": time_limit, "belief": belief}
    venv, singles = make(**options), [LLMSchedEnv(**options) for _ in range(3)]
    rng = np.random.default_rng(0)
    venv.seed(11)
    seen: Any = venv.reset()
    for number, single in enumerate(singles):
        np.testing.assert_equal(member(seen, number), single.reset(seed=11 + number)[0])
    first, going, returns = seen, {0, 1, 2}, [0.0] * 3
    truncations, steps = 0, 0
    while going:
        actions = random_actions(rng, seen, illegal=0.05)
        seen, rewards, ended, infos = venv.step(actions)
        steps += 1
        for number in sorted(going):
            last, reward, terminated, truncated, info = singles[number].step(int(actions[number]))
            returns[number] += reward
            assert rewards[number] == np.float32(reward)
            assert ended[number] == (terminated or truncated)
            if not ended[number]:
                np.testing.assert_equal(member(seen, number), last)
                invalid = {"invalid_action": True} if "invalid_action" in info else {}
                assert infos[number] == invalid
                continue
            final = dict(infos[number])
            np.testing.assert_equal(final.pop("terminal_observation"), last)
            assert final.pop("TimeLimit.truncated") == truncated
            episode = final.pop("episode")
            assert episode["r"] == pytest.approx(returns[number], abs=1e-6)
            assert (episode["l"], episode["t"] > 0) == (steps, True)
            np.testing.assert_equal(final, info)
            assert "mean_jct_s" in final
            assert time_s(member(seen, number)) < time_s(last), "the next one has begun"
            assert not np.array_equal(seen["cluster"][number], first["cluster"][number])
            going.remove(number)
            truncations += truncated
    assert truncations == (0 if time_limit is None else 3)


def begins(venv: SB3VecEnv, episodes: int) -> list[list[float]]:
    """When the first job arrived in each of so many episodes of every cluster."""
    seen: Any = venv.reset()
    arrivals = [[float(second)] for second in time_s(seen)]
    while min(map(len, arrivals)) < episodes:
        seen, _, ended, _ = venv.step(seen["action_mask"].argmax(axis=1))
        for number in np.flatnonzero(ended):
            arrivals[number].append(float(time_s(seen)[number]))
    return [times[:episodes] for times in arrivals]


def test_the_seed_determines_one_episode_after_the_other() -> None:
    venv = make()
    venv.seed(5)
    first = begins(venv, 4)
    assert len({second for times in first for second in times}) == 12, "all are different"
    venv.seed(5)
    assert begins(venv, 4) == first
    again = make()
    again.seed(5)
    assert begins(again, 4) == first
    again.seed(6)
    assert begins(again, 4)[0][0] == first[1][0], "cluster i has the seed s + i"


def test_a_reset_without_a_seed_begins_the_episodes_that_follow() -> None:
    venv = make()
    venv.seed(5)
    episodes = begins(venv, 2)
    venv.seed(5)
    venv.reset()
    assert time_s(venv.reset()).tolist() == [second for _, second in episodes]


def test_nobody_has_to_give_a_seed() -> None:
    one, other = begins(make(), 1), begins(make(), 1)
    assert one != other


def test_what_was_observed_stays_as_it_is() -> None:
    venv, rng = make(), np.random.default_rng(0)
    venv.seed(0)
    seen: Any = venv.reset()
    held = []
    for _ in range(40):
        held.append((seen, {name: array.copy() for name, array in seen.items()}))
        seen, *_ = venv.step(random_actions(rng, seen))
    for observed, as_it_was in held:
        np.testing.assert_equal(observed, as_it_was)


def test_the_seconds_of_a_step_are_the_clusters() -> None:
    venv, rng = make(time_limit=8.0), np.random.default_rng(0)
    venv.seed(0)
    seen: Any = venv.reset()
    for _ in range(60):
        before = time_s(seen)
        seen, _, ended, infos = venv.step(random_actions(rng, seen))
        end = [
            float(time_s(infos[number]["terminal_observation"] if over else member(seen, number)))
            for number, over in enumerate(ended)
        ]
        np.testing.assert_allclose(venv.seconds, np.array(end) - before, atol=1e-6)


# --- going on from a state ------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    steps=st.integers(0, 60),
    until_one_begins=st.booleans(),
    seed=st.integers(0, 2**16),
    time_limit=st.sampled_from(LIMITS),
)
def test_going_on_from_a_state_is_going_on(
    steps: int, until_one_begins: bool, seed: int, time_limit: float | None
) -> None:
    venv, rng = make(time_limit=time_limit), np.random.default_rng(seed)
    venv.seed(seed)
    seen: Any = venv.reset()
    ended = np.zeros(3, np.bool_)
    while steps > 0 or (until_one_begins and not ended.any()):
        seen, _, ended, _ = venv.step(random_actions(rng, seen, illegal=0.1))
        steps -= 1
    state = venv.state()
    assert (state["length"] == 0)[ended].all()
    again = make(time_limit=time_limit)
    np.testing.assert_equal(again.restore(state), seen)
    np.testing.assert_equal(again.state(), state)
    for _ in range(30):
        actions = random_actions(rng, seen, illegal=0.1)
        ours, theirs = again.step(actions), venv.step(actions)
        check_same(ours, theirs)
        np.testing.assert_equal(again.seconds, venv.seconds)
        seen = theirs[0]
    np.testing.assert_equal(again.state(), venv.state())


def test_a_state_does_not_change_with_what_follows_nor_where_it_is_used() -> None:
    venv, rng = make(), np.random.default_rng(0)
    venv.seed(0)
    seen: Any = venv.reset()
    for _ in range(10):
        seen, *_ = venv.step(random_actions(rng, seen))
    at_10, state = seen, venv.state()
    for _ in range(2):
        seen = venv.restore(state)  # from where others were
        np.testing.assert_equal(seen, at_10)
        for _ in range(50):
            seen, *_ = venv.step(random_actions(rng, seen))


# --- what stable-baselines3 asks them -------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"autoreset_mode": "NextStep"}, {"autoreset_mode": "SameStep"}, {"copy": False}],
)
def test_only_clusters_that_leave_the_next_episode_and_their_arrays_to_it(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=r'clusters: need autoreset_mode="Disabled" and copy=True'):
        make(**options)


def test_what_clusters_do_not_have_is_told() -> None:
    venv = make()
    with pytest.raises(AttributeError, match="set_attr: 'strict' cannot be set"):
        venv.set_attr("strict", True)
    with pytest.raises(AttributeError, match="env_method: 'render' .* action_masks, job_table"):
        venv.env_method("render")
    venv.set_options({"time_limit": 3.0})
    with pytest.raises(ValueError, match="options: a reset takes none"):
        venv.reset()


def test_it_answers_for_single_clusters() -> None:
    venv = make()
    venv.seed(0)
    seen: Any = venv.reset()
    masks = venv.env_method("action_masks")
    assert np.stack(masks).tolist() == (seen["action_mask"] != 0).tolist()
    np.testing.assert_equal(venv.env_method("action_masks", indices=[2, 0]), [masks[2], masks[0]])
    table = venv.env_method("job_table", indices=1)[0]
    single = LLMSchedEnv(**SMALL)
    single.reset(seed=1)
    np.testing.assert_equal(table, single.job_table())
    assert venv.get_attr("scenario", indices=[0, 2]) == [venv.clusters.scenario] * 2
    assert venv.env_is_wrapped(Monitor) == [True] * 3
    assert venv.env_is_wrapped(VecNormalize, indices=0) == [False]  # type: ignore[arg-type]


def test_sb3_contrib_finds_its_masks() -> None:
    venv = RewardScaling(make(), discount_s=10.0)
    seen: Any = venv.reset()
    assert is_masking_supported(venv)
    masks = get_action_masks(venv)
    assert masks.dtype == np.bool_
    np.testing.assert_array_equal(masks, seen["action_mask"] != 0)


# --- the scale of rewards -------------------------------------------------------------------------


@pytest.mark.parametrize("discount_s", [5.0, math.inf])
def test_rewards_are_scaled_by_returns_that_time_discounts(discount_s: float) -> None:
    venv, rng = make(time_limit=20.0), np.random.default_rng(0)
    scaling = RewardScaling(venv, discount_s)
    scaling.seed(0)
    seen: Any = scaling.reset()
    running, so_far = np.zeros(3), []
    for _ in range(100):
        seen, scaled, ended, _ = scaling.step(random_actions(rng, seen))
        reward = scaling.get_original_reward()
        running = running * np.exp(-venv.seconds / discount_s) + reward
        so_far.append(running.copy())
        wanted = reward / np.std(so_far)
        np.testing.assert_allclose(scaled, np.clip(wanted, -10, 10), rtol=1e-2, atol=1e-6)
        running[np.asarray(ended)] = 0.0
        np.testing.assert_allclose(scaling.returns, running, rtol=1e-6)
    assert np.min(so_far) < -1


def test_reward_scaling_hands_on_observations_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    venv, rng = make(), np.random.default_rng(0)
    scaling = RewardScaling(venv, discount_s=5.0)
    results: list[Any] = []

    def noted(function: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            results.append(function())
            return results[-1]

        return run

    for name in ("reset", "step_wait"):
        monkeypatch.setattr(venv, name, noted(getattr(venv, name)))
    seen: Any = scaling.reset()
    assert seen is results[-1]
    ends = 0
    while ends < 2:
        seen, _, _, infos = scaling.step(random_actions(rng, seen))
        assert seen is results[-1][0]
        for mine, theirs in zip(infos, results[-1][3], strict=True):
            assert mine is theirs
            ends += "terminal_observation" in mine


# --- the policy -----------------------------------------------------------------------------------


def policy_for(venv: SB3VecEnv, seed: int = 0) -> GraphPolicy:
    """A policy whose weights are all random, as if it had been trained."""
    space: Any = venv.observation_space
    torch.manual_seed(seed)
    policy = GraphPolicy(space, venv.action_space, lambda _: 1e-3)  # type: ignore[arg-type]
    with torch.no_grad():
        for weights in policy.parameters():
            weights.add_(0.2 * torch.randn(weights.shape))
    return policy


def played(venv: SB3VecEnv, steps: int = 12, seed: int = 0) -> list[Observation]:
    """What is observed while anything legal is done, and where episodes end."""
    rng = np.random.default_rng(seed)
    venv.seed(seed)
    seen: Any = venv.reset()
    found: list[Observation] = []
    for _ in range(steps):
        found.append(seen)
        seen, _, _, infos = venv.step(random_actions(rng, seen))
        found += [
            {name: array[None] for name, array in info["terminal_observation"].items()}
            for info in infos
            if "terminal_observation" in info
        ]
    return found


def cannot_wait(seen: Observation) -> Any:
    return seen["action_mask"][:, -1] == 0


@pytest.fixture(scope="module")
def observed() -> list[Observation]:
    found = played(make(5, num_jobs=8, max_stages=64, time_limit=60.0), steps=400)
    assert len({len(seen["cluster"]) for seen in found}) == 2, "some are where an episode ends"
    found = [seen for k, seen in enumerate(found) if k % 12 == 0 or cannot_wait(seen).any()]
    assert sum(cannot_wait(seen).sum() for seen in found) >= 3
    return found


@pytest.fixture(scope="module")
def policy() -> GraphPolicy:
    return policy_for(make(5, num_jobs=8, max_stages=64))


def log_probs(policy: GraphPolicy, seen: Observation, masked: bool = True) -> torch.Tensor:
    """Of all actions [B, max_stages + 1]."""
    with torch.no_grad():
        masks = seen["action_mask"] != 0 if masked else None
        distribution = policy.get_distribution(obs_as_tensor(seen, "cpu"), masks)  # type: ignore[arg-type]
    return distribution.distribution.logits


def values(policy: GraphPolicy, seen: Observation) -> torch.Tensor:
    with torch.no_grad():
        return policy.predict_values(obs_as_tensor(seen, "cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("masked", [True, False])
def test_its_probabilities_are_those_of_the_network(
    policy: GraphPolicy, observed: list[Observation], masked: bool
) -> None:
    """Whether stable-baselines3 masks them, as it does to act, or not, as when it learns."""
    network = policy.features_extractor.network
    for seen in observed:
        found = log_probs(policy, seen, masked)
        for number in range(len(found)):
            alone = member(seen, number)
            with torch.no_grad():
                decision = network(graph_of(alone))
            wanted = torch.full_like(found[0], -torch.inf)
            wanted[: len(decision.stage)] = decision.stage  # rows in use come first
            wanted[-1] = decision.wait[0]
            legal = torch.from_numpy(alone["action_mask"] != 0)
            torch.testing.assert_close(found[number][legal], wanted[legal], atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(found[number].exp(), wanted.exp(), atol=1e-6, rtol=0)


def test_room_for_more_rows_changes_nothing(policy: GraphPolicy) -> None:
    narrow, wide = (make(4, num_jobs=8, max_stages=room) for room in (64, 256))
    other = policy_for(wide, seed=1)
    other.load_state_dict(policy.state_dict())
    narrow.seed(3)
    wide.seed(3)
    seen: Any = narrow.reset()
    more: Any = wide.reset()
    for _ in range(40):
        found, same = log_probs(policy, seen), log_probs(other, more)
        columns = [*range(64), 256]
        torch.testing.assert_close(same[:, columns].exp(), found.exp(), atol=1e-6, rtol=0)
        legal = torch.from_numpy(seen["action_mask"] != 0)
        torch.testing.assert_close(same[:, columns][legal], found[legal], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(values(other, more), values(policy, seen), atol=1e-5, rtol=1e-6)
        actions = found.argmax(dim=1).numpy()
        seen, *_ = narrow.step(actions)
        more, *_ = wide.step(np.where(actions == 64, 256, actions))


def test_a_batch_is_its_members_in_any_order(
    policy: GraphPolicy, observed: list[Observation]
) -> None:
    rng = np.random.default_rng(0)
    for seen in observed:
        order = rng.permutation(len(seen["cluster"]))
        shuffled = {name: array[order] for name, array in seen.items()}
        torch.testing.assert_close(
            log_probs(policy, shuffled), log_probs(policy, seen)[order], atol=1e-6, rtol=1e-6
        )
        torch.testing.assert_close(
            values(policy, shuffled), values(policy, seen)[order], atol=1e-5, rtol=1e-6
        )


def test_predictions_are_legal_and_the_likeliest(
    policy: GraphPolicy, observed: list[Observation]
) -> None:
    for seen in observed:
        likeliest, _ = policy.predict(seen, deterministic=True)
        np.testing.assert_array_equal(likeliest, log_probs(policy, seen).argmax(dim=1).numpy())
        drawn, _ = policy.predict(seen)
        for actions in (likeliest, drawn):
            assert seen["action_mask"][np.arange(len(actions)), actions].all()
        alone, _ = policy.predict(member(seen, 0), deterministic=True)
        assert (alone.shape, alone) == ((), likeliest[0])


def test_values_and_gradients_are_finite(policy: GraphPolicy, observed: list[Observation]) -> None:
    for seen in observed:
        assert values(policy, seen).shape == (len(seen["cluster"]), 1)
        policy.zero_grad()
        actions, _ = policy.predict(seen)
        evaluated = policy.evaluate_actions(
            obs_as_tensor(seen, "cpu"),  # type: ignore[arg-type]
            torch.from_numpy(np.asarray(actions)),
        )
        for tensor in evaluated:
            assert tensor is not None
            assert torch.isfinite(tensor).all()
        sum(tensor.sum() for tensor in evaluated if tensor is not None).backward()  # type: ignore[union-attr]
        for weights in policy.parameters():
            assert weights.grad is None or torch.isfinite(weights.grad).all()


def test_the_value_tells_apart_how_many_jobs_are_to_come(
    policy: GraphPolicy, observed: list[Observation]
) -> None:
    seen = observed[0]
    fewer = {**seen, "cluster": seen["cluster"].copy()}
    fewer["cluster"][:, CLUSTER["jobs_to_arrive"]] = 0
    assert (values(policy, fewer) - values(policy, seen)).abs().min() > 1e-3


def test_the_weights_follow_from_torchs_generator() -> None:
    venv = make()
    made = [policy_for(venv, seed).state_dict() for seed in (0, 0, 1)]
    for name, weights in made[0].items():
        assert torch.equal(weights, made[1][name])
    for part in ("network.stage_in", "critic.job"):
        name = f"features_extractor.{part}.weight"
        assert not torch.equal(made[0][name], made[2][name])


# --- the buffer -----------------------------------------------------------------------------------

GAMMA, LAMBDA = 0.9, 0.8


def learner(
    venv: SB3VecEnv, steps: int = 32, batch_size: int = 40, seed: int = 0, **options: Any
) -> MaskablePPO:
    scaled = RewardScaling(venv, discount_s=20.0)
    clock = {"venv": scaled, "discount_s": 20.0, "trace_s": 5.0}
    return MaskablePPO(
        GraphPolicy,
        scaled,
        n_steps=steps,
        batch_size=batch_size,
        seed=seed,
        device="cpu",
        rollout_buffer_class=GraphRolloutBuffer,
        rollout_buffer_kwargs=clock,
        **options,
    )


@pytest.fixture(scope="module")
def collected() -> MaskablePPO:
    """A learner that has collected decisions, and learnt nothing from them."""
    model = learner(make(5, time_limit=20.0))
    with torch.no_grad():
        for weights in model.policy.parameters():
            weights.add_(0.2 * torch.randn(weights.shape))
    model.train = lambda: None  # type: ignore[method-assign]
    return model.learn(5 * 32)


def test_log_probabilities_and_values_are_those_of_collection(collected: MaskablePPO) -> None:
    decisions = 0
    for batch in collected.rollout_buffer.get(40):
        with torch.no_grad():
            value, log_prob, _ = collected.policy.evaluate_actions(
                batch.observations, batch.actions, action_masks=batch.action_masks
            )
        torch.testing.assert_close(log_prob, batch.old_log_prob, atol=1e-6, rtol=0)
        torch.testing.assert_close(value.flatten(), batch.old_values, atol=1e-5, rtol=1e-5)
        decisions += len(log_prob)
    assert decisions == 5 * 32
    assert collected.rollout_buffer.log_probs.std() > 0.1


@given(batch_size=st.one_of(st.none(), st.integers(1, 200)))
def test_minibatches_hold_every_decision_once(
    collected: MaskablePPO, batch_size: int | None
) -> None:
    buffer: Any = collected.rollout_buffer
    batches = list(buffer.get(batch_size))
    tables = (buffer.actions, buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
    wanted = np.stack([table.reshape(-1) for table in tables], axis=1)
    fields = ("actions", "old_values", "old_log_prob", "advantages", "returns")
    found = [[getattr(batch, field).numpy() for field in fields] for batch in batches]
    rows = np.concatenate([np.stack(parts, axis=1) for parts in found])
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], wanted[np.lexsort(wanted.T)])
    for batch in batches:
        assert len(batch.observations.cluster) == len(batch.actions)
        assert len(batch.actions) <= max(5, batch_size or 160)
    sizes = [len(batch.actions) for batch in batches]
    assert len(set(sizes[:-1])) <= 1, "all but the last are alike"


def test_minibatches_are_drawn_anew() -> None:
    model = learner(make(2))
    model.train = lambda: None  # type: ignore[method-assign]
    model.learn(2 * 32)
    first, second = (
        torch.cat([batch.old_log_prob for batch in model.rollout_buffer.get(8)]) for _ in range(2)
    )
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def test_steps_are_kept_with_the_seconds_they_took(collected: MaskablePPO) -> None:
    buffer: Any = collected.rollout_buffer
    clock = np.stack([graph.cluster[:, CLUSTER["time_s"]].numpy() for graph in buffer.graphs])
    goes_on = buffer.episode_starts[1:] == 0
    passed = np.diff(clock, axis=0)
    np.testing.assert_allclose(buffer.seconds[:-1][goes_on], passed[goes_on], atol=1e-5)
    assert (~goes_on).any()
    assert (passed[~goes_on] < 0).all()
    assert (buffer.seconds >= 0).all()


def filled(
    seconds: Any, rewards: Any, values: Any, starts: Any, **options: Any
) -> GraphRolloutBuffer:
    """A buffer with these tables [steps, clusters]."""
    steps, count = np.shape(rewards)
    options = {"gamma": 1.0, "gae_lambda": 1.0, **options}
    space: Any = SPACES["observation_space"]
    nowhere: Any = None
    buffer = GraphRolloutBuffer(
        *(steps, space, SPACES["action_space"], "cpu"),
        n_envs=count,
        venv=nowhere,
        **options,
    )
    buffer.seconds[:], buffer.rewards[:] = seconds, rewards
    buffer.values[:], buffer.episode_starts[:] = values, starts
    return buffer


SPACES = {
    name: getattr(LLMSchedEnv(**SMALL), name) for name in ("observation_space", "action_space")
}
NUMBERS = st.integers(-8, 8).map(float)
HORIZONS = st.sampled_from((0.5, 3.0, 100.0, math.inf))


@given(st.data(), HORIZONS, HORIZONS)
def test_advantages_are_sums_of_errors_that_time_discounts(
    data: st.DataObject, discount_s: float, trace_s: float
) -> None:
    steps, count = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))

    def table(of: st.SearchStrategy[Any], rows: int = steps) -> Any:
        return np.array([[data.draw(of) for _ in range(count)] for _ in range(rows)])

    seconds, rewards = table(st.sampled_from((0.0, 0.5, 1.0, 7.0))), table(NUMBERS)
    value, starts = table(NUMBERS, steps + 1), table(st.booleans(), steps + 1)
    buffer = filled(
        *(seconds, rewards, value[:-1], starts[:-1]),
        **{"gamma": GAMMA, "gae_lambda": LAMBDA, "discount_s": discount_s, "trace_s": trace_s},
    )
    buffer.compute_returns_and_advantage(torch.tensor(value[-1:]).T, starts[-1])
    for number in range(count):
        for step in range(steps):
            wanted, weight, later = 0.0, 1.0, step
            while later < steps:
                lasted = seconds[later, number]
                kept = GAMMA * math.exp(-lasted / discount_s) * (not starts[later + 1, number])
                follows = kept * value[later + 1, number]
                wanted += weight * (rewards[later, number] + follows - value[later, number])
                weight *= kept * LAMBDA * math.exp(-lasted / trace_s)
                later += 1
            assert buffer.advantages[step, number] == pytest.approx(wanted, rel=1e-5, abs=1e-5)
            wanted += value[step, number]
            assert buffer.returns[step, number] == pytest.approx(wanted, rel=1e-5, abs=1e-5)


HALF = 1 / math.log(2)  # seconds: what comes a second later counts half


@pytest.mark.parametrize(
    ("trace_s", "advantages"),
    [
        # after 2 s it is a quarter of 8: -2 + 2 - 2, then -1 + (2 - 2) / 2 - 4
        (math.inf, [-5, -2]),
        # only the next step counts: -1 + 2 / 2 - 4
        (1e-9, [-4, -2]),
        # the error of the second step counts half of what it is discounted to
        (HALF, [-4.5, -2]),
    ],
)
def test_advantages_by_hand(trace_s: float, advantages: list[float]) -> None:
    tables = [[1], [2]], [[-1], [-2]], [[4], [2]], [[0], [0]]
    buffer = filled(*tables, discount_s=HALF, trace_s=trace_s)
    buffer.compute_returns_and_advantage(torch.tensor([[8.0]]), np.array([False]))
    assert buffer.advantages.ravel().tolist() == pytest.approx(advantages)
    assert buffer.returns.ravel().tolist() == pytest.approx(np.add(advantages, [4, 2]))
    buffer.compute_returns_and_advantage(torch.tensor([[8.0]]), np.array([True]))
    assert buffer.advantages[1, 0] == -4, "nothing follows the end of an episode"


def test_without_discounts_returns_are_plain_sums() -> None:
    rng = np.random.default_rng(0)
    seconds, rewards = rng.exponential(5, (7, 2)), rng.integers(-9, 0, (7, 2))
    buffer = filled(seconds, rewards, 0, 0, discount_s=math.inf, trace_s=math.inf)
    buffer.compute_returns_and_advantage(torch.tensor([[3.0], [5.0]]), np.zeros(2, np.bool_))
    to_go = rewards[::-1].cumsum(axis=0)[::-1]
    np.testing.assert_array_equal(buffer.returns, np.add(to_go, [3, 5]))


# --- MaskablePPO ----------------------------------------------------------------------------------


@pytest.mark.parametrize("time_limit", [*LIMITS, 0.5])
def test_maskable_ppo_learns_from_whole_and_truncated_episodes(time_limit: float | None) -> None:
    """With the last limit some episodes are over before anything could be decided."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = learner(make(4, time_limit=time_limit), gamma=1.0, gae_lambda=1.0)
        before = {name: one.clone() for name, one in model.policy.state_dict().items()}
        model.learn(300)
    assert model.num_timesteps == 3 * 4 * 32
    assert model.ep_info_buffer
    assert all(episode["r"] <= 0 < episode["l"] for episode in model.ep_info_buffer)
    after = model.policy.state_dict()
    assert all(torch.isfinite(one).all() for one in after.values())
    learnt = [name for name, _ in model.policy.named_parameters()]
    changed = {name for name in learnt if not torch.equal(before[name], after[name])}
    assert {"features_extractor.network.heads.weight", "features_extractor.critic.job.weight"} <= (
        changed
    )


def test_the_seed_of_a_learner_determines_what_it_learns() -> None:
    learnt = []
    for seed in (0, 0, 1):
        model = learner(make(2), seed=seed)
        learnt.append(model.learn(64).policy.state_dict())
    name = "features_extractor.network.heads.weight"
    assert all(torch.equal(one, learnt[1][key]) for key, one in learnt[0].items())
    assert not torch.equal(learnt[0][name], learnt[2][name])


def test_truncated_episodes_are_worth_what_the_critic_expects_of_them() -> None:
    """Ended by the clock, they would have gone on; ended by their last job, nothing follows."""
    model = learner(make(4, time_limit=2.0), gamma=1.0, gae_lambda=1.0)
    model.train = lambda: None  # type: ignore[method-assign]
    ends: list[tuple[int, int, float]] = []
    rewards: list[Any] = []

    def watch(local: dict[str, Any], _: Any) -> bool:
        rewards.append(local["rewards"].copy())
        for number, info in enumerate(local["infos"]):
            if "terminal_observation" in info:
                assert info["TimeLimit.truncated"]
                seen = {k: v[None] for k, v in info["terminal_observation"].items()}
                policy: Any = model.policy
                ends.append((len(rewards) - 1, number, float(values(policy, seen))))
        return True

    model.learn(4 * 32, callback=watch)
    added = model.rollout_buffer.rewards - np.stack(rewards)
    wanted = np.zeros_like(added)
    for step, number, value in ends:
        wanted[step, number] = value
    assert len(ends) > 4
    np.testing.assert_allclose(added, wanted, atol=1e-5)

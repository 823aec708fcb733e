import numpy as np
import pytest

from llmsched_gym.agents import base
from llmsched_gym.agents.base import (
    POLICIES,
    Policy,
    PriorityPolicy,
    job_feature,
    make_policy,
    register,
    rows_in_use,
    runnable,
    stage_feature,
)
from support.observations import Observation, observation, random_observation, stacked
from support.policies import ByDemand, Unsure

ONE_JOB = [{"demand_s": 5}]


def test_the_highest_legal_priority_runs() -> None:
    stages = [{"job": 0, "demand_s": d, "legal": d != 9} for d in (3, 7, 9, 1)]
    seen = observation(ONE_JOB, stages)
    assert ByDemand(1).act(seen) == 1
    assert ByDemand(-1).act(seen) == 3


def test_ties_go_to_the_lowest_row() -> None:
    stages = [{"job": 0, "demand_s": d, "legal": row} for row, d in enumerate((4, 2, 4, 4))]
    assert ByDemand(1).act(observation(ONE_JOB, stages)) == 2


def test_it_waits_only_if_no_stage_is_legal() -> None:
    stages = [{"job": 0, "legal": 0}]
    assert ByDemand(1).act(observation(ONE_JOB, stages)) == 12
    assert ByDemand(1).act(observation(ONE_JOB, [{"job": 0}])) == 0
    assert ByDemand(1).act(observation([], [])) == 12


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ((9.0, -np.inf, np.nan), 1),  # row 0 is not legal, the others are all the same: lowest
        ((9.0, np.nan, -1e300), 2),
        ((np.nan, np.nan, np.nan), 1),
    ],
)
def test_rows_that_are_not_legal_are_never_chosen(scores: tuple[float, ...], chosen: int) -> None:
    seen = observation(ONE_JOB, [{"job": 0, "legal": 0}, {"job": 0}, {"job": 0}])
    policy = Unsure()
    policy.scores = scores
    assert policy.act(seen) == chosen
    policy.scores = scores
    assert np.asarray(policy.act(stacked([seen]))).tolist() == [chosen]


def test_features_of_stages_and_of_their_jobs() -> None:
    jobs = [{"age_s": 10}, {"age_s": 20}]
    seen = observation(jobs, [{"job": 1, "demand_s": 1}, {"job": 0, "demand_s": 2}])
    used = rows_in_use(seen)
    assert stage_feature(used, "demand_s").tolist() == [1, 2]
    assert job_feature(used, "age_s").tolist() == [20, 10]
    batch = rows_in_use(stacked([seen, seen]))
    assert job_feature(batch, "age_s").tolist() == [[20, 10], [20, 10]]


def test_rows_in_use_are_views_and_those_of_the_fullest_of_a_batch() -> None:
    small = observation(ONE_JOB, [{"job": 0}])
    large = observation(ONE_JOB * 3, [{"job": 2}] * 5, can_wait=False)
    used = rows_in_use(small)
    assert used["stages"].shape[0] == 1
    assert used["jobs"].shape[0] == 1
    assert np.shares_memory(used["stages"], small["stages"])
    batch = rows_in_use(stacked([small, large]))
    assert batch["stages"].shape[:2] == (2, 5)
    assert batch["jobs"].shape[:2] == (2, 3)
    assert runnable(batch).tolist() == [[True] + [False] * 4, [True] * 5]


def scatter(seed: int, count: int) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [
        random_observation(rng, jobs=int(rng.integers(1, 8)), stages=int(rng.integers(1, 20)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", ["fcfs", "fair", "sjf", "srtf", "llmsched"])
@pytest.mark.parametrize("epsilon", [0, 1])
def test_a_batch_is_chosen_as_its_members_are(name: str, epsilon: float) -> None:
    policy = make_policy(name, **({"epsilon": epsilon} if name == "llmsched" else {}))
    nothing = [
        observation([], [], max_stages=20),
        observation(ONE_JOB, [{"job": 0, "legal": 0}], max_stages=20),
    ]
    members = [*scatter(0, 60), *nothing]
    expected = [policy.act(member) for member in members]
    batch = stacked(members)
    chosen = np.asarray(policy.act(batch))
    assert chosen.tolist() == expected
    two = {key: table.reshape(2, -1, *table.shape[1:]) for key, table in batch.items()}
    assert np.asarray(policy.act(two)).tolist() == [expected[:31], expected[31:]]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_is_legal_determined_by_its_seed_and_leaves_observations_alone(
    name: str,
) -> None:
    seen = [one for one in scatter(1, 40) if one["action_mask"][:-1].any()]
    before = stacked(seen)
    choices = []
    for seed in (3, 3):
        policy = make_policy(name)
        policy.reset(seed)
        choices.append([policy.act(one) for one in seen])
    assert choices[0] == choices[1]
    policy.reset(3)
    assert [policy.act(one) for one in seen] == choices[0]
    for one, action in zip(seen, choices[0], strict=True):
        assert one["action_mask"][action]
        if isinstance(policy, PriorityPolicy):
            assert action != len(one["action_mask"]) - 1
    for key, table in stacked(seen).items():
        np.testing.assert_array_equal(table, before[key])


def test_another_seed_chooses_otherwise() -> None:
    seen = observation(ONE_JOB, [{"job": 0, "legal": row % 3} for row in range(9)])
    policy = make_policy("random")
    policy.reset(0)
    first = [policy.act(seen) for _ in range(30)]
    policy.reset(1)
    assert [policy.act(seen) for _ in range(30)] != first
    legal = set(np.flatnonzero(seen["action_mask"][:-1]).tolist())
    policy.reset(2)
    assert {policy.act(seen) for _ in range(400)} == legal


def test_make_policy_passes_options() -> None:
    policy = make_policy("llmsched", epsilon=0.5)
    assert policy.name == "llmsched"
    assert getattr(policy, "epsilon") == 0.5  # noqa: B009 (an attribute of the subclass)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "srfs",
            {},
            f"'srfs' (did you mean 'srtf'?), choose from {', '.join(sorted(POLICIES))}, or give",
        ),
        ("fcfs", {"epsilon": 1}, "policy fcfs: unknown option 'epsilon'; it has no options"),
        (
            "llmsched",
            {"eps": 1},
            "unknown option 'eps' (did you mean 'epsilon'?); valid options: epsilon",
        ),
        ("llmsched", {"epsilon": 2}, "policy llmsched: epsilon: 2 is not a number from 0 to 1"),
        ("llmsched", {"epsilon": "a"}, "epsilon: 'a' is not a number from 0 to 1"),
        ("llmsched", {"explore_fraction": float("nan")}, "explore_fraction: nan is not a number"),
        (
            "llmsched_priced",
            {"price": -1},
            "policy llmsched_priced: price: -1 is not a number of at least 0",
        ),
        (
            "llmsched_priced",
            {"contenders": 2},
            "policy llmsched_priced: contenders: 2 is not true or false",
        ),
        ("no_such_module:Best", {}, "cannot import 'no_such_module'"),
        (":Best", {}, "cannot import ''"),
        (
            "support.policies:stage_feature",
            {},
            "support.policies has no subclass 'stage_feature' of llmsched_gym",
        ),
        (
            "support.policies:Absent",
            {},
            "support.policies has no subclass 'Absent' of llmsched_gym.agents.Policy",
        ),
        ("support.policies:ByDemand", {}, "option 'sign' has no default and is not given"),
    ],
)
def test_bad_names_and_options(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match="policy") as caught:
        make_policy(name, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_outside_the_package_needs_no_registration() -> None:
    policy = make_policy("support.policies:ByDemand", sign=-1, bonus=2)
    assert isinstance(policy, Policy)
    assert policy.act(observation(ONE_JOB, [{"job": 0, "demand_s": 2}, {"job": 0}])) == 1


def test_what_a_class_says_of_beliefs_holds_for_itself_alone() -> None:
    class Silent(PriorityPolicy):
        def priority(self, observation: Observation) -> np.ndarray:  # type: ignore[override]
            return stage_feature(observation, "demand_s")

    class Indifferent(Silent):
        needs_belief = False

    class Curious(Indifferent):
        """It may read more than the one above."""

    class Sure(Curious):
        needs_belief = True

    class Follower(Sure):
        """What reads a belief needs it."""

    told = [one.needs_belief for one in (Silent, Indifferent, Curious, Sure, Follower)]
    assert told == [None, False, None, True, True]
    assert all(policy.needs_belief is not None for policy in POLICIES.values())
    assert type("MyFCFS", (POLICIES["fcfs"],), {})().needs_belief is None


def test_what_a_class_says_that_it_reads_holds_for_itself_alone() -> None:
    class Silent(PriorityPolicy):
        def priority(self, observation: Observation) -> np.ndarray:  # type: ignore[override]
            return stage_feature(observation, "demand_s")

    class Plain(Silent):
        reads = ()

    class Curious(Plain):
        """It may read more than the one above."""

    class Indifferent(Silent):
        needs_belief = False

    class Sure(Indifferent):
        needs_belief = True

    told = [one.reads for one in (Silent, Plain, Curious, Indifferent, Sure)]
    assert told == [None, (), None, (), None]
    assert all(policy.reads is not None for policy in POLICIES.values())
    assert type("MyGittins", (POLICIES["gittins"],), {})().reads is None


def test_a_name_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "POLICIES", {})
    register("mine")(ByDemand)
    assert ByDemand.name == "mine"
    with pytest.raises(ValueError, match="'mine' is taken by ByDemand"):
        register("mine")(Unsure)
    ByDemand.name = ""

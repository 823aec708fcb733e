import numpy as np
import pytest

from llmsched_gym.metrics import (
    Estimate,
    gap_closed,
    mean,
    p99_reduction,
    percentile_summary,
    reduction,
)

RNG = np.random.default_rng(0)


def test_percentiles_by_hand() -> None:
    assert percentile_summary(np.arange(1, 102)) == {
        "mean_jct_s": 51,
        "p50_jct_s": 51,
        "p95_jct_s": 96,
        "p99_jct_s": 100,
    }
    assert percentile_summary([1.0, 2.0])["p95_jct_s"] == pytest.approx(1.95)
    with pytest.raises(ValueError, match="no job has completed"):
        percentile_summary([])


def test_one_episode_has_no_interval() -> None:
    assert mean([3.0]) == (3.0, None, None)
    assert reduction([3.0], [4.0]) == (0.25, None, None)
    assert gap_closed([3.0], [4.0], [2.0]) == (0.5, None, None)


def test_the_mean_and_its_interval() -> None:
    sample = RNG.normal(100, 10, size=400)
    value, low, high = mean(sample)
    assert value == pytest.approx(sample.mean())
    assert low is not None
    assert high is not None
    # For 400 normal numbers the bootstrap is the textbook's interval, nearly.
    error = 1.96 * sample.std(ddof=1) / 20
    assert low == pytest.approx(sample.mean() - error, abs=0.1)
    assert high == pytest.approx(sample.mean() + error, abs=0.1)


@pytest.mark.parametrize("sample", [[2.0, 2.0, 2.0], [0.1] * 7, [0.0, 0.0]])
def test_episodes_all_alike_have_an_interval_of_no_width(sample: list[float]) -> None:
    value = pytest.approx(sample[0])
    assert list(mean(sample)) == [value, value, value]


def test_intervals_are_the_same_each_time() -> None:
    sample = RNG.exponential(size=10)
    assert mean(sample) == mean(sample.tolist())


def test_a_reduction_by_hand() -> None:
    assert reduction([10.0, 20.0], [40.0, 20.0]).value == pytest.approx(0.5)
    assert reduction([30.0, 30.0], [20.0, 20.0]).value == pytest.approx(-0.5)


def test_reductions_are_paired() -> None:
    """Episodes differ much, the policies by a tenth in each: the reduction is nearly certain."""
    baseline = RNG.uniform(10, 1000, size=12)
    policy = 0.9 * baseline * RNG.uniform(0.99, 1.01, size=12)
    value, low, high = reduction(policy, baseline)
    assert low is not None
    assert high is not None
    assert 0.08 < low < (value or 0) < high < 0.12
    unpaired = reduction(policy[::-1], baseline)
    assert unpaired.low is not None
    assert unpaired.low < low - 0.1
    with pytest.raises(ValueError, match=r"\[2, 3\] of them make no pairs"):
        reduction([1.0, 2.0], [1.0, 2.0, 3.0])


def test_a_policy_against_itself() -> None:
    sample = RNG.uniform(1, 2, size=8)
    assert reduction(sample, sample) == (0, 0, 0)


def test_the_share_of_the_gap_by_hand() -> None:
    sjf, oracle = np.array([20.0, 40.0]), np.array([10.0, 20.0])
    assert gap_closed(sjf, sjf, oracle).value == 0
    assert gap_closed(oracle, sjf, oracle) == (1, 1, 1)
    assert gap_closed([15.0, 24.0], sjf, oracle).value == pytest.approx(10.5 / 15)
    assert gap_closed([10.0, 10.0], sjf, oracle).value == pytest.approx(20 / 15), "beyond it"
    assert gap_closed([25.0, 45.0], sjf, oracle).value == pytest.approx(-5 / 15), "worse than SJF"


def test_without_a_positive_gap_there_is_no_share() -> None:
    assert gap_closed([1.0, 2.0], [3.0, 3.0], [3.0, 3.0]) == Estimate(None)
    assert gap_closed([1.0, 2.0], [3.0, 3.0], [4.0, 4.0]) == Estimate(None)


def test_a_gap_that_some_resamples_lack_has_no_interval() -> None:
    share = gap_closed([9.0, 9.0, 9.0], [10.0, 10.0, 10.0], [4.0, 11.0, 11.0])
    assert share.value == pytest.approx(1 / (4 / 3))
    assert share[1:] == (None, None)


def test_the_reduction_of_the_tail_is_over_all_jobs() -> None:
    theirs = RNG.lognormal(3, 1, (8, 60))
    value, low, high = p99_reduction(theirs / 2, theirs)
    assert (value, low, high) == pytest.approx((0.5, 0.5, 0.5))
    ours = theirs * RNG.uniform(0.5, 1.5, theirs.shape)
    value, low, high = p99_reduction(ours, theirs)
    assert value == pytest.approx(1 - np.percentile(ours, 99) / np.percentile(theirs, 99))
    assert low is not None
    assert high is not None
    assert low <= high
    assert p99_reduction(ours, theirs) == (value, low, high), "the generator is seeded"
    assert p99_reduction(ours[:1], theirs[:1])[1:] == (None, None)
    assert p99_reduction([[0.0]], [[0.0]]) == Estimate(None)
    with pytest.raises(ValueError, match="make no pairs"):
        p99_reduction(ours[:3], theirs)


def test_the_interval_of_the_tail_holds_the_truth() -> None:
    """Of 40 comparisons of the same law, about 95 % say that it may be the same."""
    held = 0
    for _ in range(40):
        _, low, high = p99_reduction(*RNG.lognormal(0, 0.5, (2, 20, 30)))
        assert low is not None
        assert high is not None
        held += low <= 0 <= high
    assert held >= 34

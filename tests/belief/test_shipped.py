"""The beliefs that ship are those that the code would fit now."""

import numpy as np
import pytest

from llmsched_gym.belief.fitting import SHIPPED, fit_profile, load_or_fit
from llmsched_gym.belief.profile import BeliefProfile
from llmsched_gym.belief.shipped import LATENCY, SETTINGS, shipped
from llmsched_gym.workload.mixes import MIXES


def test_each_generated_workload_has_both_and_no_other_is_there() -> None:
    """After a change of what fits: python -m llmsched_gym.belief.shipped."""
    expected = [path for path, _, _ in shipped()]
    assert len(expected) == len(MIXES) * len(SETTINGS)
    assert sorted(expected) == sorted(SHIPPED.iterdir())


@pytest.mark.slow
def test_they_are_what_is_fitted() -> None:
    for path, past, settings in shipped():
        kept, fitted = BeliefProfile.load(path), fit_profile(past, LATENCY, settings)
        assert kept.notes == fitted.notes
        assert kept.networks.keys() == fitted.networks.keys()
        assert load_or_fit(past, LATENCY, settings).networks.keys() == kept.networks.keys()
        for name, network in kept.networks.items():
            other = fitted.networks[name]
            assert network.parents == other.parents
            for table, again in zip(network.tables, other.tables, strict=True):
                np.testing.assert_allclose(table, again, rtol=1e-9, atol=1e-12)

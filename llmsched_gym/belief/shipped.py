"""The beliefs that come with the package: of the generated workloads on the default cluster.

    python -m llmsched_gym.belief.shipped

fits them anew and writes them to ``belief/fitted``, each under a name that depends on its past
jobs, on what they cost and on the code that fits. So whoever plays these workloads waits for no fit
and needs no pgmpy; whoever changes that code runs the command again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmsched_gym.belief.fitting import SHIPPED, fingerprint, fit_profile
from llmsched_gym.belief.profile import BeliefProfile, BeliefSettings
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import MIXES, make_workload

LATENCY = load_cluster("a100_llama2_7b").latency
SETTINGS = BeliefSettings(), BeliefSettings(prompts=False)  # the default, the evidence of the paper


def shipped() -> Iterator[tuple[Path, JobBank, BeliefSettings]]:
    """The file of each belief that ships, the past jobs that it is of, and how it is fitted."""
    for name in MIXES:
        past = make_workload(name).past
        for settings in SETTINGS:
            made_from = fingerprint(past, LATENCY, settings)
            yield SHIPPED / f"{made_from[:16]}.npz", past, settings


def main() -> None:
    """Fit them all, then put them in the place of those that are there."""
    fitted: dict[Path, BeliefProfile] = {
        path: fit_profile(past, LATENCY, settings) for path, past, settings in shipped()
    }
    SHIPPED.mkdir(exist_ok=True)
    for old in SHIPPED.glob("*.npz"):
        old.unlink()
    for path, profile in fitted.items():
        profile.save(path)


if __name__ == "__main__":
    main()

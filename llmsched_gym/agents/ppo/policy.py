"""PPO: what stable-baselines3 has learnt, with the network of Decima."""

from __future__ import annotations

from pathlib import Path

from llmsched_gym.agents.base import register
from llmsched_gym.agents.decima.policy import Decima
from llmsched_gym.env.features import COSTLY


@register("ppo")
class PPO(Decima):
    """Runs what a network thinks best that ``train.py agent=ppo`` has trained.

    How is in :mod:`llmsched_gym.agents.ppo.training`.

    Parameters
    ----------
    checkpoint : the name of a shipped one, "mixed_bayes" (the workload and the belief it was
        trained with; the default), or the path of a file that ``train.py agent=ppo`` wrote.
    greedy : take the likeliest action (default); else draw one from the network's probabilities.

    Raises
    ------
    CheckpointError
        a ValueError, if there is no such checkpoint or it cannot be used.
    MissingExtra
        a ValueError, if torch is not installed.
    """

    reads = COSTLY
    kind = "ppo"
    shipped = Path(__file__).parent / "checkpoints"

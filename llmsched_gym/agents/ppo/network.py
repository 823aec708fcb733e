"""The network of Decima as a policy of stable-baselines3: MaskablePPO on graphs of jobs."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule, TensorDict
from torch import Tensor, nn

from llmsched_gym.agents.decima.network import (
    DecimaNetwork,
    Graph,
    graph_of,
    legal_stages,
    scales_of,
)
from llmsched_gym.env.features import CLUSTER_FEATURES, JOB_FEATURES


class GraphExtractor(BaseFeaturesExtractor):
    """The network of Decima, and a critic beside it, as the feature extractor of a policy.

    Its features [B, max_stages + 2] are the log-probabilities of the actions, -1e8 for those that
    are not legal, and the value.

    Parameters
    ----------
    space : of the observations.
    embedding, hidden, head : sizes, as of
        :class:`llmsched_gym.agents.decima.network.DecimaNetwork`.

    Notes
    -----
    The weights follow from the state of torch's generator, which the ``seed`` of a learner sets.
    """

    def __init__(
        self, space: spaces.Dict, embedding: int = 8, hidden: int = 16, head: int = 32
    ) -> None:
        self._actions = int(space["action_mask"].shape[0])  # type: ignore[index]
        super().__init__(space, self._actions + 1)
        self.network = DecimaNetwork(embedding, hidden, head, int(torch.randint(2**31, ())))
        self.critic = Critic()

    def forward(self, observations: TensorDict | Graph) -> Tensor:
        """The features of a batch of padded observations, or of the graphs of one."""
        graph = observations if isinstance(observations, Graph) else _graph_of(observations)
        graph = graph.to(str(self.critic.scale_of_jobs.device))
        decision = self.network(graph)
        features = decision.wait.new_full((len(decision.wait), self._actions + 1), ILLEGAL)
        features[:, -2] = decision.wait.clamp(min=ILLEGAL)
        features[:, -1] = self.critic(graph)
        stage, _, cluster = legal_stages(graph)
        return features.index_put((cluster, graph.row[stage]), decision.stage[stage])


ILLEGAL = -1e8  # as MaskablePPO has it: in place of minus infinity, whose gradient is no number


def _graph_of(observations: TensorDict) -> Graph:
    return graph_of({name: tensor.cpu().numpy() for name, tensor in observations.items()})


class Critic(nn.Module):
    """The value of a cluster: what the jobs in it cost, summed up, for they delay one another.

    It sees the time and the jobs that are still to arrive, which the network does not: schedules
    do not depend on them, but how much there is to pay until the end of the episode does.

    Parameters
    ----------
    job, hidden : the length of a job's summary, and units of the hidden layer.
    """

    scale_of_jobs: Tensor
    scale_of_cluster: Tensor

    def __init__(self, job: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("scale_of_jobs", scales_of(JOB_FEATURES, {}))
        self.register_buffer("scale_of_cluster", scales_of(CLUSTER_FEATURES, {}))
        inputs = job + len(CLUSTER_FEATURES)
        self.job = nn.Linear(len(JOB_FEATURES), job)
        self.curved = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.straight = nn.Linear(inputs, 1)

    def forward(self, graph: Graph) -> Tensor:
        """The values [B]."""
        summary = torch.tanh(self.job(graph.jobs.log1p() * self.scale_of_jobs))
        total = summary.new_zeros(len(graph.cluster), summary.shape[1])
        total = total.index_add(0, graph.job_cluster, summary) / _JOBS
        cluster = graph.cluster.log1p() * self.scale_of_cluster
        inputs = torch.cat((total, cluster), dim=1)
        return (self.curved(inputs) + self.straight(inputs)).squeeze(1)


_JOBS = 5.0  # what the sum over jobs is divided by


class _Split(nn.Module):
    """From the features of :class:`GraphExtractor` to those of the actor and of the critic."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return features[:, :-1]

    def forward_critic(self, features: Tensor) -> Tensor:
        return features[:, -1:]


class GraphPolicy(MaskableActorCriticPolicy):
    """A policy for ``MaskablePPO`` that points at a stage, or waits.

    It works on padded observations of any size, and knows which actions are legal from them.

    Parameters
    ----------
    extractor : the sizes of the network, see :class:`GraphExtractor`.
    """

    features_extractor: GraphExtractor

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        **options: Any,
    ) -> None:
        options = {"features_extractor_class": GraphExtractor, **options}
        super().__init__(observation_space, action_space, lr_schedule, **options)

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        """The features of observations or of graphs, where SB3 would make all numbers floats."""
        return self.features_extractor(obs)

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Any:
        """The distribution of the actions for observations."""
        latent = self.mlp_extractor.forward_actor(self.extract_features(obs))
        distribution = self._get_action_dist_from_latent(latent)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution

    def predict_values(self, obs: Any) -> Tensor:
        """The values [B, 1] of observations."""
        return self.mlp_extractor.forward_critic(self.extract_features(obs))

    def _build(self, lr_schedule: Schedule) -> None:
        self.mlp_extractor = _Split()  # type: ignore[assignment]
        self.action_net, self.value_net = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

"""The scheduling policies: functions of the observation, registered by name."""

from agents import (
    argus,
    carbyne,
    critical_path,
    decima,
    fair,
    fcfs,
    gittins,
    las,
    llmsched,
    ppo,
    random,
    sjf,
    srtf,
    topological_uncertainty,
    weighted_fair,
)
from agents.base import POLICIES, Policy, PriorityPolicy, find_policy, make_policy, register

__all__ = [
    "POLICIES",
    "Policy",
    "PriorityPolicy",
    "argus",
    "carbyne",
    "critical_path",
    "decima",
    "fair",
    "fcfs",
    "find_policy",
    "gittins",
    "las",
    "llmsched",
    "make_policy",
    "ppo",
    "random",
    "register",
    "sjf",
    "srtf",
    "topological_uncertainty",
    "weighted_fair",
]

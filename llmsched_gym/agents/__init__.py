"""The scheduling policies: functions of the observation, registered by name."""

if __name__ != "llmsched_gym.agents":  # through the link at the root of a checkout
    raise ImportError("the policies are llmsched_gym.agents; `agents` is a link for people")

from llmsched_gym.agents import (
    argus,
    carbyne,
    critical_path,
    decima,
    fair,
    fcfs,
    gittins,
    las,
    llmsched,
    llmsched_priced,
    ppo,
    random,
    resource_srtf,
    sjf,
    srtf,
    topological_uncertainty,
    weighted_fair,
)
from llmsched_gym.agents.base import (
    POLICIES,
    Policy,
    PriorityPolicy,
    find_policy,
    job_feature,
    make_policy,
    of_job,
    register,
    runnable,
    stage_feature,
)
from llmsched_gym.agents.learning.custom import CustomLearner

__all__ = [
    "POLICIES",
    "CustomLearner",
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
    "job_feature",
    "las",
    "llmsched",
    "llmsched_priced",
    "make_policy",
    "of_job",
    "ppo",
    "random",
    "register",
    "resource_srtf",
    "runnable",
    "sjf",
    "srtf",
    "stage_feature",
    "topological_uncertainty",
    "weighted_fair",
]

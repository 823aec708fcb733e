"""The scheduling policies: functions of the observation, registered by name."""

from agents import fair, fcfs, llmsched, random, sjf, srtf
from agents.base import POLICIES, Policy, PriorityPolicy, find_policy, make_policy, register

__all__ = [
    "POLICIES",
    "Policy",
    "PriorityPolicy",
    "fair",
    "fcfs",
    "find_policy",
    "llmsched",
    "make_policy",
    "random",
    "register",
    "sjf",
    "srtf",
]

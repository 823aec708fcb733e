"""Web search in ReAct style (chain-like): think, search, think again, until the answer is found.

Each thought reveals whether a search and another thought follow, as in
``traces/react_fever.jsonl``. Two kinds of session in the proportion in which they were measured:
short ones (fact checking, one or two searches of seconds: react_fever) and long ones (up to 28
steps of a fraction of a second: react_alfw, where a step of a text environment stands for
reading on; the step after its last thought is left out, so that both end with a thought).
Prompts hold everything before them.
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.react import session
from llmsched_gym.workload.applications.sampling import parameters
from llmsched_gym.workload.job import Job


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job: a thought, then (search, thought) pairs, each pair revealed by the last thought."""
    long = rng.random() < parameters("web_search").constants["long_sessions"]
    fitted = parameters("web_search_long" if long else "web_search_short")
    return Job("web_search", job_id, session(rng, fitted, "thought", "search", "search"))

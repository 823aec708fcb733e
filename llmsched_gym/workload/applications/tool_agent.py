"""A tool-calling agent that serves a customer (chain-like): a call, a tool or a reply, a call.

Fitted to ``agent_traces/tau_airline.jsonl`` (tau-bench, Yao et al., 2024; airline, 50 tasks x 4
trials, gpt-4o): 2 to 30 calls whose prompts hold everything before them. The length of the first
prompt says next to nothing of the rest; calls that go on say more with each round. How long a tool
takes was not measured: 0.5 s each.
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.react import session
from llmsched_gym.workload.applications.sampling import parameters
from llmsched_gym.workload.job import Job


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job: an LLM call, then (tool, llm) pairs, each pair revealed by the last call."""
    return Job("tool_agent", job_id, session(rng, parameters("tool_agent"), "llm", "tool", None))

"""Jobs that ship, so that everything that takes a file of jobs can be tried without one.

``jobs.jsonl`` holds 40 jobs in our format with their arrivals, of four applications of agents.
``python -m llmsched_gym.workload.fitting.sample`` draws them again.
"""

from __future__ import annotations

from pathlib import Path


def sample_path() -> Path:
    """Where the sample is: 40 jobs of four applications, with arrivals."""
    return Path(__file__).with_name("jobs.jsonl")

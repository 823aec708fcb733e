"""Draw the jobs that ship, in a checkout: ``python -m llmsched_gym.workload.fitting.sample``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmsched_gym.workload.applications import APPLICATIONS
from llmsched_gym.workload.job import Job
from llmsched_gym.workload.samples import sample_path
from llmsched_gym.workload.traces import write_traces

SAMPLED = ("code_generation", "parallel_function_calling", "task_automation", "web_search")
JOBS_EACH = 10
SEED = 40
MEAN_GAP_S = 2.0


def sample_jobs() -> list[Job]:
    """The jobs in the order in which they arrive, the first at 0 s; ids are numbered by that."""
    rng = np.random.default_rng(SEED)
    applications = rng.permutation(np.repeat(SAMPLED, JOBS_EACH)).tolist()
    gaps = rng.exponential(MEAN_GAP_S, len(applications))
    arrivals = np.round(np.cumsum(gaps) - gaps[0], 3).tolist()
    return [
        replace(APPLICATIONS[application](rng, f"sample-{number:02}"), arrival_s=arrival)
        for number, (application, arrival) in enumerate(zip(applications, arrivals, strict=True))
    ]


if __name__ == "__main__":
    write_traces(sample_path(), sample_jobs())

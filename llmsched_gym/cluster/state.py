"""The tables of one simulated cluster: what its compiled simulator reads and writes.

Time is counted in whole *ticks* of one picosecond. Whole numbers make the closed form of m decode
iterations equal to the sum over tokens to the last bit, so that events that coincide coincide
exactly, in this simulator, in any other and on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TICKS_PER_SECOND = 10**12

Table = NDArray[np.void]
IntArray = NDArray[np.int64]

CLOCK = np.dtype(
    [
        ("now", np.int64),  # ticks
        ("num_jobs", np.int64),  # of the whole episode
        ("arrived", np.int64),  # jobs that have arrived (jobs are numbered in order of arrival)
        ("finished", np.int64),  # jobs that have completed
        ("active", np.int64),  # length of the list `active`: arrived - finished
        ("ready", np.int64),  # length of the list `ready`
        ("changed", np.int64),  # length of the list `changed`
        ("regular_free", np.int64),  # idle regular executors
        ("llm_running", np.int64),  # LLM tasks dispatched and not completed
        ("dispatched", np.int64),  # tasks dispatched so far
        ("job_seconds", np.float64),  # time integral of the number of jobs in the system, s
    ]
)

JOB = np.dtype(
    [
        ("bank_job", np.int64),  # index in the bank the job was drawn from
        ("application", np.int64),
        ("first_stage", np.int64),
        ("num_stages", np.int64),  # hidden ones included
        ("arrival", np.int64),  # ticks
        ("completion", np.int64),  # ticks, -1 before
        ("unfinished_stages", np.int64),  # hidden ones included
        ("running_tasks", np.int64),
        ("completed_tasks", np.int64),
        ("attained", np.int64),  # ticks: slot time used, up to `attained_until`
        ("attained_until", np.int64),  # ticks
        ("changed", np.int64),  # what `changed` lists it for: NO_CHANGE, PROGRESS or EVIDENCE
    ]
)

STAGE = np.dtype(
    [
        ("job", np.int64),
        ("kind", np.int64),  # workload.job.Kind
        ("canonical", np.int64),  # row of the TemplateTable, -1 if unknown there
        ("num_tasks", np.int64),
        ("first_task", np.int64),
        ("started_tasks", np.int64),  # tasks first_task, first_task + 1, ... in this order
        ("completed_tasks", np.int64),
        ("visible", np.int64),  # 1 once arrived and revealed
        ("unfinished_parents", np.int64),
        ("revealed_by", np.int64),  # stage, -1 if known at arrival
        ("ready_slot", np.int64),  # its place in the list `ready`, -1 if not there
        ("prompt_tokens", np.int64),  # of all its tasks
        ("output_limit", np.int64),  # tokens reserved for the output of each of its tasks
        ("demand", np.int64),  # ticks of service at batch size 1, all tasks: hidden until complete
    ]
)

TASK = np.dtype(
    [
        ("stage", np.int64),
        ("prompt_tokens", np.int64),
        ("output_tokens", np.int64),
        ("demand", np.int64),  # ticks of service at batch size 1
        ("start", np.int64),  # ticks, -1 before
        ("end", np.int64),  # ticks, -1 before
        ("executor", np.int64),  # engine or regular executor, -1 before
    ]
)

NO_CHANGE, PROGRESS, EVIDENCE = 0, 1, 2

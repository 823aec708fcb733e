"""Measured jobs against generated ones: quantiles, rank correlations, a table and two pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from llmsched_gym.workload.applications import APPLICATIONS, CLASSES
from llmsched_gym.workload.applications.fitting import Measured, outputs, prompts, seconds
from llmsched_gym.workload.applications.sampling import FloatArray
from llmsched_gym.workload.job import Job, Stage

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class Quantity(NamedTuple):
    """One number (or several) per job: ``of(job)``."""

    application: str
    name: str
    of: Callable[[Job], list[float]]


class Dependence(NamedTuple):
    """Two numbers per job whose rank correlation is compared."""

    application: str
    name: str
    first: Callable[[Job], float]
    second: Callable[[Job], float]


def _of_stage(
    name: str, values: Callable[[Sequence[Stage]], list[float]]
) -> Callable[[Job], list[float]]:
    return lambda job: values([stage for stage in job.stages if stage.name == name])


def _tasks(stages: Sequence[Stage]) -> list[float]:
    return [float(sum(len(stage.tasks) for stage in stages))]


def _first_output(job: Job) -> float:
    return float(sum(outputs(job.stages[:1])))


def _fan_out(job: Job) -> list[float]:
    return [float(max(len(stage.tasks) for stage in job.stages))]


PER_JOB: dict[str, Callable[[Job], list[float]]] = {
    "stages": lambda job: [float(len(job.stages))],
    "tasks": lambda job: _tasks(job.stages),
    "output tokens": lambda job: [float(sum(outputs(job.stages)))],
    "prompt tokens": lambda job: [float(sum(prompts(job.stages)))],
    "regular seconds": lambda job: [float(sum(seconds(job.stages)))],
}
REMAINING: dict[str, Callable[[Job], float]] = {
    "remaining tasks": lambda job: sum(len(stage.tasks) for stage in job.stages[1:]),
    "remaining output tokens": lambda job: sum(outputs(job.stages[1:])),
    "remaining regular seconds": lambda job: sum(seconds(job.stages[1:])),
}
TRACED = ("document_merging", "code_generation", "web_search", "task_automation")

QUANTITIES = (
    Quantity("sequence_sorting", "tasks", PER_JOB["tasks"]),
    Quantity("sequence_sorting", "split: output tokens per number", lambda job: [
        outputs(job.stages[:1])[0] / (len(job.stages) and 2 ** (len(job.stages) // 2 - 2) * 32)
    ]),
    *(Quantity(app, name, of) for app in TRACED for name, of in PER_JOB.items()),
    Quantity("parallel_function_calling", "fan-out", _fan_out),
    Quantity("parallel_function_calling", "planner: output tokens per call", lambda job: [
        outputs(job.stages[:1])[0] / (2 * _fan_out(job)[0])
    ]),
)

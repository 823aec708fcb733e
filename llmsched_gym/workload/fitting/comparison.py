"""Measured jobs against generated ones: quantiles, rank correlations, a table and two pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from llmsched_gym.workload.applications import APPLICATIONS
from llmsched_gym.workload.applications.sampling import FloatArray
from llmsched_gym.workload.fitting.measured import Measured, outputs, prompts, seconds
from llmsched_gym.workload.job import Job, Kind, Stage
from llmsched_gym.workload.mixes import MIXES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
GENERATED_JOBS = 4000
SEED = 2025
TRACES: dict[str, tuple[str, ...]] = {
    "document_merging": ("got_docmerge",),
    "code_generation": ("code_feedback",),
    "web_search": ("react_fever", "react_alfw"),
    "task_automation": ("hugginggpt",),
    "fact_checking": ("factool_kbqa",),
    "map_reduce": ("langchain_mapreduce",),
    "tool_agent": ("tau_airline",),
}


class Quantity(NamedTuple):
    """One or more numbers per job, whose quantiles are compared."""

    application: str
    name: str
    of: Callable[[Job], list[float]]


class Dependence(NamedTuple):
    """Two numbers per job, whose rank correlation (Spearman) is compared."""

    application: str
    name: str
    first: Callable[[Job], float]
    second: Callable[[Job], float]
    given: str = "first-stage output tokens"

    @property
    def key(self) -> str:
        """What it is called in tables."""
        return f"{self.given}, {self.name}"


def _tasks(stages: Sequence[Stage]) -> float:
    return float(sum(len(stage.tasks) for stage in stages))


def _first_output(job: Job) -> float:
    return float(sum(outputs(job.stages[:1])))


def _first_prompt(job: Job) -> float:
    return float(sum(prompts(job.stages[:1])))


def _first_tasks(job: Job) -> float:
    return _tasks(job.stages[:1])


def _fan_out(job: Job) -> float:
    return float(max(len(stage.tasks) for stage in job.stages))


PER_JOB: dict[str, Callable[[Job], list[float]]] = {
    "output tokens": lambda job: [float(sum(outputs(job.stages)))],
    "prompt tokens": lambda job: [float(sum(prompts(job.stages)))],
    "tasks": lambda job: [_tasks(job.stages)],
    "stages": lambda job: [float(len(job.stages))],
    "regular seconds": lambda job: [float(sum(seconds(job.stages)))],
}
REMAINING: dict[str, Callable[[Job], float]] = {
    "remaining output tokens": lambda job: float(sum(outputs(job.stages[1:]))),
    "remaining tasks": lambda job: _tasks(job.stages[1:]),
    "remaining regular seconds": lambda job: float(sum(seconds(job.stages[1:]))),
}
# Stages of parallel function calling, which has no trace, against the stages that lent them.
CALLING = "parallel_function_calling"

QUANTITIES: tuple[Quantity, ...] = (
    *(
        Quantity("sequence_sorting", name, PER_JOB[name])
        for name in ("output tokens", "prompt tokens", "tasks")
    ),
    *(Quantity(application, name, PER_JOB[name]) for application in TRACES for name in PER_JOB),
    Quantity(CALLING, "fan-out", lambda job: [_fan_out(job)]),
    Quantity(
        CALLING,
        "planner: output tokens per call",
        lambda job: [_first_output(job) / (2 * _fan_out(job))],
    ),
    Quantity(CALLING, "search: seconds", lambda job: seconds(job.stages[1:2])),
    Quantity(CALLING, "math: output tokens", lambda job: outputs(job.stages[2:3])),
    Quantity(CALLING, "joiner: output tokens", lambda job: outputs(job.stages[3:4])),
)
DEPENDENCES: tuple[Dependence, ...] = (
    *(
        Dependence(application, name, _first_output, remaining)
        for application in TRACES
        for name, remaining in REMAINING.items()
    ),
    Dependence(CALLING, "fan-out", _first_output, _fan_out),
    *(
        Dependence(application, name, first, REMAINING[name], given)
        for application, given, first in (  # what is visible at arrival
            ("fact_checking", "first prompt", _first_prompt),
            ("map_reduce", "parts", _first_tasks),
            ("tool_agent", "first prompt", _first_prompt),
        )
        for name in ("remaining output tokens", "remaining tasks")
    ),
)


# ------------------------------------------------------------------ statistics


def measured_jobs(measured: Measured, application: str) -> list[Job]:
    """The measured jobs of an application, without what the generators leave out."""
    return [
        _without_last_step(job) for trace in TRACES[application] for job in measured.jobs[trace]
    ]


def _without_last_step(job: Job) -> Job:
    """A ReAct job up to its last thought."""
    last = job.stages[-1]
    ends_in_step = last.kind == Kind.REGULAR and job.stages[0].name == "thought"
    return Job(job.application, job.job_id, job.stages[:-1]) if ends_in_step else job


def measured_values(measured: Measured) -> dict[Quantity, FloatArray]:
    """The measured numbers behind each quantity that was measured."""
    jobs = {application: measured_jobs(measured, application) for application in TRACES}
    claims = measured.stages("factool_kbqa", "extract_claims")
    verdicts = measured.stages("factool_kbqa", "verifies")
    borrowed: dict[tuple[str, str], list[float]] = {
        ("sequence_sorting", "tasks"): [float(calls) for calls in measured.sorting_calls.values()],
        (CALLING, "fan-out"): [
            float(size) for size, n in measured.branches.items() for _ in range(n)
        ],
        (CALLING, "planner: output tokens per call"): [
            outputs(plan)[0] / len(group[0].tasks)
            for plan, group in zip(claims, verdicts, strict=True)
        ],
        (CALLING, "search: seconds"): [
            value for group in measured.stages("react_fever", "search") for value in seconds(group)
        ],
        (CALLING, "math: output tokens"): [
            value
            for group in measured.stages("factool_math", "generate_queries")
            for value in outputs(group)
        ],
        (CALLING, "joiner: output tokens"): [
            value for group in verdicts for value in outputs(group)
        ],
    }
    values = {}
    for quantity in QUANTITIES:
        if quantity.application in TRACES:
            values[quantity] = numbers(quantity, jobs[quantity.application])
        elif (quantity.application, quantity.name) in borrowed:
            lent = borrowed[quantity.application, quantity.name]
            values[quantity] = np.array(lent, np.float64)
    return values


def numbers(quantity: Quantity, jobs: Sequence[Job]) -> FloatArray:
    """The quantity over a list of jobs, pooled."""
    return np.array([value for job in jobs for value in quantity.of(job)], np.float64)


def quantiles(values: FloatArray) -> list[float]:
    """The 5, 25, 50, 75 and 95 % quantiles."""
    return [float(value) for value in np.quantile(values, LEVELS, method="inverted_cdf")]


def rank_correlation(dependence: Dependence, jobs: Sequence[Job]) -> float | None:
    """Spearman's rho over the jobs; None where one of the two does not vary."""
    first = [dependence.first(job) for job in jobs]
    second = [dependence.second(job) for job in jobs]
    if len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(spearmanr(first, second).statistic)


def measured_statistics(measured: Measured) -> dict[str, dict[str, Any]]:
    """Per application the measured quantiles, means and rank correlations, for the parameters."""
    statistics: dict[str, dict[str, Any]] = {
        application: {"quantities": {}, "rank_correlations": {}} for application in APPLICATIONS
    }
    for quantity, values in measured_values(measured).items():
        statistics[quantity.application]["quantities"][quantity.name] = {
            "quantiles": [float(f"{value:.5g}") for value in quantiles(values)],
            "mean": float(f"{values.mean():.5g}"),
            "n": len(values),
        }
    for dependence in DEPENDENCES:
        if dependence.application == CALLING:  # claims stand for branches
            claims = measured.jobs["factool_kbqa"]
            jobs = [job for job in claims if _fan_out(job) in measured.branches]
        else:
            jobs = measured_jobs(measured, dependence.application)
        rho = rank_correlation(dependence, jobs)
        if rho is not None:
            statistics[dependence.application]["rank_correlations"][dependence.key] = round(rho, 3)
    return statistics


def generate(count: int = GENERATED_JOBS, seed: int = SEED) -> dict[str, list[Job]]:
    """``count`` jobs of every application."""
    jobs = {}
    for number, (application, draw) in enumerate(APPLICATIONS.items()):
        rng = np.random.default_rng([seed, number])
        jobs[application] = [draw(rng, f"{application}-{index}") for index in range(count)]
    return jobs


# ------------------------------------------------------------------ table


def tables(statistics: Mapping[str, Mapping[str, Any]], jobs: Mapping[str, Sequence[Job]]) -> str:
    """Markdown: quantiles and means, measured above generated; then the rank correlations."""
    heads = ["application", "quantity", "", *(f"{level:.0%}" for level in LEVELS), "mean"]
    lines = [_row(heads), _row(["---"] * 3 + ["---:"] * (len(heads) - 3))]
    for quantity in QUANTITIES:
        known = statistics[quantity.application]["quantities"].get(quantity.name)
        drawn = numbers(quantity, jobs[quantity.application])
        rows = {"generated": (quantiles(drawn), float(drawn.mean()))}
        if known is not None:
            rows = {"measured": (known["quantiles"], known["mean"]), **rows}
        heading = [quantity.application, quantity.name]
        for label, (values, mean) in rows.items():
            lines.append(_row([*heading, label, *map(_number, values), _number(mean)]))
            heading = ["", ""]
    lines += ["", _row(["application", "rank correlation of", "measured", "generated"])]
    lines.append(_row(["---", "---", "---:", "---:"]))
    for dependence in DEPENDENCES:
        key = dependence.key
        rho = statistics[dependence.application]["rank_correlations"].get(key)
        drawn_rho = rank_correlation(dependence, jobs[dependence.application])
        if rho is not None and drawn_rho is not None:
            lines.append(_row([dependence.application, key, _signed(rho), _signed(drawn_rho)]))
    return "\n".join(lines) + "\n"


def demand_table(jobs: Mapping[str, Sequence[Job]]) -> str:
    """Markdown: mean demand of one generated job of each application."""
    means = {
        application: {
            "LLM calls": float(np.mean([len(outputs(job.stages)) for job in rows])),
            "output tokens": float(np.mean([sum(outputs(job.stages)) for job in rows])),
            "prompt tokens": float(np.mean([sum(prompts(job.stages)) for job in rows])),
            "regular seconds": float(np.mean([sum(seconds(job.stages)) for job in rows])),
        }
        for application, rows in jobs.items()
    }
    total = sum(means[name]["output tokens"] for name in MIXES["mixed"])
    columns = list(next(iter(means.values())))
    lines = [
        _row(["application", *columns, "share of output tokens in `mixed`"]),
        _row(["---", *["---:"] * (len(columns) + 1)]),
    ]
    for application, row in means.items():
        share = f"{row['output tokens'] / total:.1%}" if application in MIXES["mixed"] else ""
        lines.append(_row([application, *map(_number, row.values()), share]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no minus zero


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


# ------------------------------------------------------------------ pictures


def calibration_picture(measured: Measured, jobs: Mapping[str, Sequence[Job]]) -> bytes:
    """PNG: distribution functions, measured and generated, one row per application."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    values = measured_values(measured)
    rows = {
        application: [
            (quantity, values.get(quantity), numbers(quantity, jobs[application]))
            for quantity in QUANTITIES
            if quantity.application == application and quantity.name != "stages"
        ]
        for application in APPLICATIONS
    }
    rows = {
        application: [panel for panel in panels if panel[2].min() < panel[2].max()]
        for application, panels in rows.items()
    }
    columns = max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(3.2 * columns, 2.5 * len(rows)), layout="constrained"
    )
    for row, (application, panels) in zip(axes, rows.items(), strict=True):
        for axis in row[len(panels) :]:
            axis.set_axis_off()
        for axis, (quantity, known, drawn) in zip(row, panels, strict=False):
            if known is not None:
                axis.ecdf(known, label="measured", color="black", linewidth=2.2)
            axis.ecdf(drawn, label="generated", color="tab:orange")
            axis.set_xlabel(quantity.name)
            axis.grid(alpha=0.3)
            axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            if "tokens" in quantity.name and drawn.max() > 12 * drawn.min():
                axis.set_xscale("log")
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axis.xaxis.set_major_formatter(EngFormatter(sep=""))
                axis.xaxis.set_minor_formatter(NullFormatter())
        row[0].set_ylabel(f"{application.replace('_', ' ')}\n\ncumulative share")
    axes[1][0].legend(loc="lower right", fontsize=8)
    return png(figure)


def demand_picture(jobs: Mapping[str, Sequence[Job]]) -> bytes:
    """PNG: output tokens and regular seconds of the generated jobs, by application."""
    import matplotlib.pyplot as plt

    names = list(jobs)[::-1]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, name in zip(axes, ("output tokens", "regular seconds"), strict=True):
        data = [[PER_JOB[name](job)[0] for job in jobs[application]] for application in names]
        axis.boxplot(data, orientation="horizontal", whis=(5, 95), showfliers=False)
        axis.set_yticks(range(1, len(names) + 1), [label.replace("_", " ") for label in names])
        axis.set_xlabel(f"{name} of a job")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_xscale("log")
    figure.suptitle("box: quartiles and median; whiskers: 5 % and 95 %", fontsize=9)
    return png(figure)


def png(figure: Figure) -> bytes:
    """The picture as a file."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()

"""Short ways to write files of other tools, and to read them as jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmsched_gym.workload.importers.formats import FORMATS, Imported, import_traces
from llmsched_gym.workload.importers.records import Record
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.job import Job, Kind, LLMTask

NANOSECONDS = 10**9
BEGIN = 1_700_000_000  # s since 1970

Row = tuple[str, str, set[str], str | None, list[tuple[int, int] | float]]


def imported_lines(values: Iterable[Any], folder: Path, name: str = "spans.jsonl") -> Imported:
    """The jobs of a JSON lines file with these values, its format recognised."""
    file = folder / name
    file.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return import_traces(file)


def jobs_of(format: str, values: Iterable[dict[str, Any]]) -> tuple[list[Job], Tally]:
    """The jobs that an importer makes of records."""
    tally = Tally()
    records = [Record(f"file.jsonl:{number}", value) for number, value in enumerate(values, 1)]
    return list(FORMATS[format].jobs(records, tally)), tally


def rows(job: Job) -> list[Row]:
    """Per stage: name, kind, names of parents, name of the revealer, tokens or seconds of tasks."""
    names = [stage.name for stage in job.stages]
    return [
        (
            stage.name,
            Kind(stage.kind).name.lower(),
            {names[parent] for parent in stage.parents},
            None if stage.revealed_by is None else names[stage.revealed_by],
            [
                (task.prompt_tokens, task.output_tokens)
                if isinstance(task, LLMTask)
                else task.duration_s
                for task in stage.tasks
            ],
        )
        for stage in job.stages
    ]


def otlp(*spans: dict[str, Any], service: str | None = None) -> dict[str, Any]:
    """A line as the collector's file exporter writes it."""
    attributes = [] if service is None else typed({"service.name": service})
    return {
        "resourceSpans": [
            {"resource": {"attributes": attributes}, "scopeSpans": [{"spans": list(spans)}]}
        ]
    }


def otlp_span(
    number: int,
    name: str,
    start: float,
    end: float | None,
    parent: int | None = None,
    trace: int = 1,
    **attributes: Any,
) -> dict[str, Any]:
    """A span of OTLP; times in seconds, attributes with ``__`` for dots."""
    return {
        "traceId": f"{trace:032x}",
        "spanId": f"{number:016x}",
        "parentSpanId": "" if parent is None else f"{parent:016x}",
        "name": name,
        "kind": 3,
        "startTimeUnixNano": str(round((BEGIN + start) * NANOSECONDS)),
        "endTimeUnixNano": "0" if end is None else str(round((BEGIN + end) * NANOSECONDS)),
        "attributes": typed({key.replace("__", "."): one for key, one in attributes.items()}),
        "status": {},
    }


def typed(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """Attributes as OTLP writes them, whole numbers as texts."""
    return [
        {
            "key": key,
            "value": {"intValue": str(one)} if isinstance(one, int) else {"stringValue": one},
        }
        for key, one in attributes.items()
    ]

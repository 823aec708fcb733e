"""Runs of LangSmith, as its API and SDK list them.

https://docs.langchain.com/langsmith/run-data-format. A record is a run, a page of them (``runs``)
or a run that holds its ``child_runs``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from llmsched_gym.workload.importers.records import Record, inner, text, time_ns, whole
from llmsched_gym.workload.importers.spans import Role, Span, jobs_of_spans
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.job import Job

ROLES = {
    "llm": Role.CALL,
    **dict.fromkeys(("tool", "retriever", "embedding"), Role.TOOL),
    **dict.fromkeys(("chain", "prompt", "parser"), Role.WRAPPER),
}
# Where the counts of tokens are, by version of the SDK.
USAGES = (
    (),
    ("outputs", "usage_metadata"),
    ("extra", "metadata", "usage_metadata"),
    ("outputs", "llm_output", "token_usage"),
    ("outputs", "llm_output", "usage"),
    ("outputs", "usage"),
    ("extra", "token_usage"),
)
PROMPT = ("prompt_tokens", "input_tokens")
OUTPUT = ("completion_tokens", "output_tokens")


def recognises(value: dict[str, Any]) -> bool:
    """Whether a record is of this format."""
    return any(_is_run(run) for run, _, _ in _runs(value))


def jobs(records: Iterable[Record], tally: Tally) -> Iterator[Job]:
    """One job for each trace."""
    return jobs_of_spans(_spans(records, tally), tally, "langsmith")


def _spans(records: Iterable[Record], tally: Tally) -> Iterator[Span]:
    for place, value in records:
        for run, parent, trace in _runs(value):
            if _is_run(run):
                yield _span(run, parent, trace, place)
            else:
                tally.skipped.add("an object that is no run", place)


def _runs(value: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str | None, str | None]]:
    """The runs of a record, each with the run and the trace that hold it, where it is nested."""
    pages = value.get("runs")
    stack: list[tuple[Any, str | None, str | None]] = [
        (run, None, None) for run in (pages if isinstance(pages, list) else [value])
    ]
    while stack:
        run, parent, trace = stack.pop()
        if not isinstance(run, dict):
            continue
        yield run, parent, trace
        held, own = run.get("child_runs"), text(run.get("id"))
        if isinstance(held, list):
            stack += [(child, own, text(run.get("trace_id")) or trace or own) for child in held]


def _is_run(value: dict[str, Any]) -> bool:
    return "run_type" in value and text(value.get("id")) is not None


def _span(run: dict[str, Any], parent: str | None, trace: str | None, place: str) -> Span:
    number = text(run["id"]) or ""
    kind = (text(run["run_type"]) or "").lower()
    above = text(run.get("parent_run_id")) or parent
    return Span(
        trace=text(run.get("trace_id")) or trace or _root(run) or number,
        id=number,
        parent=above,
        name=text(run.get("name")) or kind or "run",
        role=ROLES.get(kind, Role.WRAPPER),
        start=time_ns(run.get("start_time")),
        end=time_ns(run.get("end_time")),
        prompt_tokens=_tokens(run, PROMPT),
        output_tokens=_tokens(run, OUTPUT),
        program=text(run.get("session_name")),
        place=place,
    )


def _root(run: dict[str, Any]) -> str | None:
    """The id of the trace, from ``dotted_order``: ``<time>Z<id of the root>.<time>Z<id>...``."""
    first = (text(run.get("dotted_order")) or "").partition(".")[0]
    return first.partition("Z")[2] or None


def _tokens(run: dict[str, Any], keys: tuple[str, str]) -> int | None:
    """The first count that is not 0, wherever it is."""
    usages = [inner(run, *path) if path else run for path in USAGES]
    usages.append(_of_message(run))
    counts = (whole(inner(usage, key)) for usage in usages for key in keys)
    return next((count for count in counts if count), None)


def _of_message(run: dict[str, Any]) -> Any:
    """The usage that LangChain keeps in the first message it got back."""
    first = inner(run, "outputs", "generations")
    while isinstance(first, list) and first:
        first = first[0]
    message = inner(first, "message")
    return inner(message, "kwargs", "usage_metadata") or inner(message, "usage_metadata")

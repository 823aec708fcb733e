"""The log of an episode on real servers: what happened, in order, and each request's tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.checks import is_number, is_whole
from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import NO_LIMIT, TICKS_PER_SECOND
from llmsched_gym.errors import InputError, one_line, printable
from llmsched_gym.files import replacing
from llmsched_gym.testbed.events import ARRIVE, COMPLETE, KINDS, START, STATUS, Event
from llmsched_gym.workload.job import Kind

LONGEST_S = 1e9  # any time in it is within
FORMAT = "llmsched-gym testbed log 1"
_NAMES = {ARRIVE: "job", START: "task", COMPLETE: "task"}  # of Event.what; else "engine"


@dataclass(frozen=True, slots=True)
class Request:
    """An LLM task as an engine was asked for it, once; times in seconds of the episode.

    Attributes
    ----------
    task : its number in the episode (a row of ``state.tasks`` and of ``task_table()``).
    engine : the number of its server.
    prompt_tokens, output_tokens : what was asked for.
    sent_s, end_s : when it was sent, and when its stream ended.
    token_s : when its tokens came, ascending: all of them, unless it failed or the server merges
        tokens into one event.
    failed : why it was of no use, "" if it yielded what was asked for.
    """

    task: int
    engine: int
    prompt_tokens: int
    output_tokens: int
    sent_s: float
    end_s: float
    token_s: tuple[float, ...]
    failed: str = ""


@dataclass(slots=True)
class EventLog:
    """What happened in an episode, to be read, written and replayed.

    Attributes
    ----------
    urls : of the servers, one an engine.
    slots : of each.
    jobs, tasks : how many the episode has.
    rows : every event, in the order in which it was applied to the state.
    requests : every request to a server that has ended, in order of its end.
    """

    urls: tuple[str, ...]
    slots: int
    jobs: int
    tasks: int
    rows: list[Event] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def write(self, path: str | Path) -> None:
        """Write it to a file, a line of JSON a row; whole or not at all.

        Raises
        ------
        OSError
            if that cannot be written.
        """
        about = {"urls": self.urls, "slots": self.slots, "jobs": self.jobs, "tasks": self.tasks}
        rows = [{"format": FORMAT, **about}, *map(_written, self.rows)]
        rows += [{"kind": "request", **asdict(request)} for request in self.requests]
        with replacing(Path(path)) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)

    @classmethod
    def read(cls, path: str | Path) -> EventLog:
        """Read what :meth:`write` has written.

        Raises
        ------
        InputError
            for anything else: one line that names the file and the line.
        OSError
            if the file cannot be read.
        """
        log, at = None, 0
        try:
            with Path(path).open("rb") as file:
                for at, line in enumerate(file, 1):
                    row = _parsed(line)
                    log = _begun(row) if log is None else log
                    if at > 1:
                        log._add(row)
        except ValueError as error:
            raise InputError(printable(f"{path}:{at}: {one_line(error)}")) from None
        if log is None:
            raise InputError(printable(f"{path}:1: the file is empty"))
        return log

    def _add(self, row: dict[str, Any]) -> None:
        """Append a row that was read, ValueError if it is none or does not belong there."""
        if row.get("kind") == "request":
            self.requests.append(_request(row, self))
            return
        kinds = ", ".join((*KINDS, "request"))
        if row.get("kind") not in KINDS:
            raise ValueError(f"kind: {row.get('kind')!r} is not one of {kinds}")
        kind = KINDS.index(row["kind"])
        tick = _whole(row, "tick", self.rows[-1].tick if self.rows else 0, NO_LIMIT)
        if kind in STATUS:
            held = _list(row, "held")
            if len(held) != len(self.urls) or not all(is_whole(one, 0, 2**62) for one in held):
                raise ValueError(f"held: {len(self.urls)} whole numbers are needed, one an engine")
            self.rows.append(Event(tick, kind, held=tuple(held)))
            return
        name = _NAMES.get(kind, "engine")
        most = {"job": self.jobs, "task": self.tasks, "engine": len(self.urls)}[name] - 1
        executor = _whole(row, "executor", 0, 2**31) if kind == START else -1
        self.rows.append(Event(tick, kind, _whole(row, name, 0, most), executor))


def _written(event: Event) -> dict[str, Any]:
    """A row of the file for an event."""
    row: dict[str, Any] = {"kind": KINDS[event.kind], "tick": event.tick}
    if event.kind in STATUS:
        return row | {"held": event.held}
    row[_NAMES.get(event.kind, "engine")] = event.what
    return row | ({"executor": event.executor} if event.kind == START else {})


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError("a line is a JSON object")
    return row


def _begun(row: dict[str, Any]) -> EventLog:
    """An empty log from the first row of a file."""
    if row.get("format") != FORMAT:
        raise ValueError(f"format: {row.get('format')!r} is not {FORMAT!r}")
    urls = _list(row, "urls")
    if not urls or not all(isinstance(url, str) for url in urls):
        raise ValueError("urls: at least one is needed")
    slots, jobs, tasks = (_whole(row, name, 1, 2**31) for name in ("slots", "jobs", "tasks"))
    return EventLog(tuple(urls), slots, jobs, tasks)


def _request(row: dict[str, Any], log: EventLog) -> Request:
    stamps = _list(row, "token_s")
    for name, value in [("token_s", stamp) for stamp in stamps] + [
        (name, row.get(name)) for name in ("sent_s", "end_s")
    ]:
        if not is_number(value, -LONGEST_S, LONGEST_S):
            raise ValueError(f"{name}: {value!r} is not a time in seconds")
    if not isinstance(row.get("failed"), str):
        raise ValueError(f"failed: {row.get('failed')!r} is not a text")
    return Request(
        task=_whole(row, "task", 0, log.tasks - 1),
        engine=_whole(row, "engine", 0, len(log.urls) - 1),
        prompt_tokens=_whole(row, "prompt_tokens", 1, 2**31),
        output_tokens=_whole(row, "output_tokens", 1, 2**31),
        sent_s=row["sent_s"],
        end_s=row["end_s"],
        token_s=tuple(stamps),
        failed=row["failed"],
    )


def _whole(row: dict[str, Any], name: str, least: int, most: int) -> int:
    if not is_whole(row.get(name), least, most):
        raise ValueError(f"{name}: {row.get(name)!r} is not a whole number from {least} to {most}")
    return int(row[name])


def _list(row: dict[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name}: {value!r} is not a list")
    return value


def task_table(state: ClusterState, requests: Sequence[Request]) -> dict[str, NDArray[Any]]:
    """Per task of an episode, what was measured; see ``TestbedEnv.task_table``."""
    tasks, stages = state.tasks, state.stages
    stage = tasks["stage"]
    job = stages["job"][stage]
    llm = stages["kind"][stage] == Kind.LLM
    table = {
        "job": job,
        "stage": stage - state.jobs["first_stage"][job],
        "task": np.arange(len(tasks)) - stages["first_task"][stage],
        "kind": np.where(llm, "llm", "regular"),
        "engine": np.where(llm, tasks["executor"], -1),
        "queued_s": _ready_s(state)[stage],
        "sent_s": np.where(llm, np.nan, _seconds(tasks["start"])),
        "first_token_s": np.full(len(tasks), np.nan),
        "end_s": np.where(llm, np.nan, _seconds(tasks["end"])),
        "prompt_tokens": np.full(len(tasks), -1),
        "output_tokens": np.full(len(tasks), -1),
    }
    sent = np.bincount([one.task for one in requests], minlength=len(tasks))
    started = llm & (tasks["start"] >= 0)
    table["retries"] = np.where(started, np.maximum(sent - 1, 0), -1)
    for one in requests:
        table["sent_s"][one.task] = one.sent_s
        if one.failed:
            continue
        table["first_token_s"][one.task], table["end_s"][one.task] = one.token_s[0], one.end_s
        table["prompt_tokens"][one.task] = one.prompt_tokens
        table["output_tokens"][one.task] = one.output_tokens
    return table


def _ready_s(state: ClusterState) -> NDArray[np.float64]:
    """When each stage became ready, NaN if it has not."""
    tasks, stages = state.tasks, state.stages
    done = np.where(tasks["end"] >= 0, tasks["end"], NO_LIMIT)
    end = np.maximum.reduceat(done, stages["first_task"])
    ready = state.jobs["arrival"][stages["job"]].copy()
    child = np.repeat(np.arange(len(stages)), np.diff(state.parents_of))
    np.maximum.at(ready, child, end[state.parents])
    here = (stages["visible"] == 1) & (stages["unfinished_parents"] == 0)
    return np.where(here, _seconds(ready), np.nan)


def _seconds(ticks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds, NaN where it has not happened."""
    return np.where(ticks >= 0, ticks / TICKS_PER_SECOND, np.nan)

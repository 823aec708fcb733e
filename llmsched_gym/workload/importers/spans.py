"""What traces of all kinds come down to: spans, of which some are stages of a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from llmsched_gym.workload.importers.structure import Limit, Work, stages_of
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.inputs import LONGEST_NAME
from llmsched_gym.workload.job import MAX_TOKENS, InvalidJob, Job, Kind


class Role(Enum):
    """What a span stands for."""

    CALL = "an LLM call"
    TOOL = "a tool, or other work that takes its time beside the LLM engines"
    LEAF = "a tool if it holds no other span, else a wrapper"
    WRAPPER = "an agent, a chain, a request: what holds others"


@dataclass(slots=True)
class Span:
    """One record of a trace.

    Attributes
    ----------
    trace : the id of its trace; each trace becomes a job.
    id, parent : its own id and that of the span that holds it, or None.
    name : of the step.
    role : what it stands for.
    start, end : nanoseconds since any origin; None where that is not recorded.
    prompt_tokens, output_tokens : of an LLM call, where they are recorded.
    program : what the record calls the whole program, or None.
    place : ``file:line``.
    """

    trace: str
    id: str
    parent: str | None
    name: str
    role: Role
    start: int | None
    end: int | None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    program: str | None = None
    place: str = ""

    @property
    def finished(self) -> bool:
        """Whether start and end are recorded."""
        return self.start is not None and self.end is not None

    @property
    def counted(self) -> bool:
        """Whether its tokens are recorded, in the range that a call may have."""
        return all(
            tokens is not None and 1 <= tokens <= MAX_TOKENS
            for tokens in (self.prompt_tokens, self.output_tokens)
        )


def jobs_of_spans(spans: Iterable[Span], tally: Tally, application: str) -> Iterator[Job]:
    """One job for each trace that has a call or a tool, in the order in which they arrived.

    Parameters
    ----------
    spans : in any order.
    tally : is told what is left out, mended and guessed.
    application : the name of jobs whose trace names no program.
    """
    traces: dict[str, dict[str, Span]] = {}
    for span in spans:
        tally.read += 1
        trace = traces.setdefault(span.trace, {})
        before = trace.get(span.id)
        if before is not None:
            tally.skipped.add("a span that occurs again", span.place)
        if before is None or (span.finished and not before.finished):
            trace[span.id] = span
    for trace in sorted(traces.values(), key=_began):
        job = _job(list(trace.values()), tally, application)
        if job is not None:
            yield job


def _began(trace: dict[str, Span]) -> int:
    return min((span.start for span in trace.values() if span.start is not None), default=0)


def _job(spans: list[Span], tally: Tally, application: str) -> Job | None:
    place = spans[0].place
    tree = _Tree(spans, tally)
    if not tree.works:
        tally.skipped.add("a trace without a call or tool", place)
        return None
    start = min(span.start for span in spans if span.start is not None)
    try:
        return Job(
            application=clean_name(tree.program() or application, "application", tally, place),
            job_id=clean_name(spans[0].trace, "job_id", tally, place),
            stages=stages_of(tree.works, tree.children, tree.roots, tally, place),
            arrival_s=start / 1e9,
            source=place,
        )
    except (InvalidJob, Limit) as error:
        tally.skipped.add(f"a job that breaks a rule: {error}", place)
        return None


def clean_name(name: str, of: str, tally: Tally, place: str) -> str:
    """The name, made one that our format allows."""
    clean = "".join(sign if sign.isprintable() else " " for sign in name).strip()[:LONGEST_NAME]
    clean = clean.replace("#", "_") if of == "stage" else clean
    clean = clean or "unnamed"
    if clean != name:
        tally.mended.add(f"a name ({of}) with signs that it may not have, or too long", place)
    return clean


class _Tree:
    """The spans of one trace by number, who holds whom, and which of them are stages."""

    def __init__(self, spans: Sequence[Span], tally: Tally) -> None:
        self.spans = spans
        self.tally = tally
        self.children: list[list[int]] = [[] for _ in spans]
        self.parents = self._parents()
        self.roots = [i for i, parent in enumerate(self.parents) if parent is None]
        for index, parent in enumerate(self.parents):
            if parent is not None:
                self.children[parent].append(index)
        self.order = list(self.roots)  # parents before children
        for index in self.order:
            self.order += self.children[index]
        self.stage: list[Kind | None] = [None] * len(spans)
        self._choose_stages()
        self._drop_inner_tools()
        self.works = {
            index: self._work(index, kind)
            for index, kind in enumerate(self.stage)
            if kind is not None
        }

    def program(self) -> str | None:
        """The name of the whole: of the only root if that is a wrapper, else what spans say."""
        if len(self.roots) == 1 and self.stage[self.roots[0]] is None:
            root = self.spans[self.roots[0]]
            if root.role in (Role.WRAPPER, Role.LEAF):
                return root.name
        return next((span.program for span in self.spans if span.program), None)

    def _parents(self) -> list[int | None]:
        number = {span.id: index for index, span in enumerate(self.spans)}
        parents: list[int | None] = []
        for span in self.spans:
            parent = None if span.parent is None else number.get(span.parent)
            if span.parent is not None and parent is None:
                self.tally.mended.add("a parent that is not there: taken as none", span.place)
            parents.append(parent)
        self._cut_cycles(parents)
        return parents

    def _cut_cycles(self, parents: list[int | None]) -> None:
        done = [False] * len(parents)
        for index in range(len(parents)):
            path: dict[int, None] = {}
            here: int | None = index
            while here is not None and not done[here] and here not in path:
                path[here] = None
                here = parents[here]
            if here is not None and here in path:
                parents[here] = None
                self.tally.mended.add("parents in a circle: cut", self.spans[here].place)
            for seen in path:
                done[seen] = True

    def _choose_stages(self) -> None:
        """Which spans are stages, decided from the leaves up.

        ``first`` is when the first call started that a span holds, itself included, and not as part
        of a tool.
        """
        first: list[int | None] = [None] * len(self.spans)
        holds: list[bool] = [False] * len(self.spans)  # calls, in tools as well
        for index in reversed(self.order):
            span, below = self.spans[index], self.children[index]
            starts = [start for child in below if (start := first[child]) is not None]
            first[index] = min(starts, default=None)
            holds[index] = any(holds[child] for child in below)
            kind = self._kind(span, first[index], holds[index], bool(below))
            self.stage[index] = kind
            if kind == Kind.LLM:
                first[index], holds[index] = span.start, True
            elif span.role == Role.TOOL:
                first[index] = None

    def _kind(self, span: Span, first: int | None, holds: bool, parent: bool) -> Kind | None:
        """The kind of stage that a span is, or None.

        Parameters
        ----------
        first : when the first call that it holds started.
        holds : whether there is a call below it.
        parent : whether it holds any span.
        """
        if span.role == Role.WRAPPER or (span.role == Role.LEAF and parent):
            return None
        what = "call" if span.role == Role.CALL else "tool"
        if span.role == Role.CALL and first is not None and (span.end is None or first < span.end):
            self.tally.mended.add("a call recorded twice, one in the other: the inner", span.place)
            return None
        if span.role != Role.CALL and holds:
            self.tally.guessed.add("a tool that holds calls: taken as a wrapper", span.place)
            return None
        if not span.finished:
            self.tally.skipped.add(f"an unfinished {what}", span.place)
            return None
        if span.role == Role.CALL and not span.counted:
            self.tally.skipped.add("a call without token counts", span.place)
            return None
        if span.role == Role.LEAF:
            self.tally.guessed.add("a span that holds no other: taken as a tool", span.place)
        return Kind.LLM if span.role == Role.CALL else Kind.REGULAR

    def _drop_inner_tools(self) -> None:
        inside = [False] * len(self.spans)
        for index in self.order:
            parent = self.parents[index]
            if parent is not None:
                inside[index] = inside[parent] or self.stage[parent] == Kind.REGULAR
            if inside[index] and self.stage[index] is not None:
                self.stage[index] = None
                place = self.spans[index].place
                self.tally.skipped.add("a tool within a tool, whose time has it", place)

    def _work(self, index: int, kind: Kind) -> Work:
        span, parent = self.spans[index], self.parents[index]
        assert span.start is not None
        assert span.end is not None
        if span.end < span.start:
            self.tally.mended.add("an end before the start: taken as 0 s", span.place)
        if parent is not None:
            began = self.spans[parent].start
            if began is not None and span.start < began:
                self.tally.mended.add("a start before that of its parent: left so", span.place)
        return Work(
            name=self._stage_name(index, kind),
            kind=kind,
            start=span.start,
            end=max(span.start, span.end),
            prompt_tokens=span.prompt_tokens or 0,
            output_tokens=span.output_tokens or 0,
        )

    def _stage_name(self, index: int, kind: Kind) -> str:
        """The span's own name, for a call behind that of the nearest wrapper that is no root."""
        span, above = self.spans[index], self.parents[index]
        name = span.name
        while kind == Kind.LLM and above is not None and self.parents[above] is not None:
            if self.stage[above] is None and self.spans[above].role != Role.CALL:
                name = f"{self.spans[above].name}/{name}"
                break
            above = self.parents[above]
        return clean_name(name, "stage", self.tally, span.place)

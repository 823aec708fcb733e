"""What an import left out, mended and guessed, counted by reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SHOWN = 5  # reasons that a note names


@dataclass
class Reasons:
    """How often something was so, by reason, and where first."""

    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, place: str, count: int = 1) -> None:
        """Count a reason; ``place`` is ``file:line``."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.places.setdefault(reason, place)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return listed(self.counts, self.places)


@dataclass
class Tally:
    """The account of one import.

    Attributes
    ----------
    read : how many records (spans, runs, requests, steps) there were.
    skipped : what is in no job, and why.
    mended : what was wrong in the records and put right.
    guessed : what the records do not say.
    """

    read: int = 0
    skipped: Reasons = field(default_factory=Reasons)
    mended: Reasons = field(default_factory=Reasons)
    guessed: Reasons = field(default_factory=Reasons)

    def notes(self) -> Iterator[str]:
        """A line for each kind of thing that a user should know."""
        kinds = (("left out", self.skipped), ("mended", self.mended), ("guessed", self.guessed))
        for kind, reasons in kinds:
            if reasons:
                yield f"{kind}: {reasons}"


def listed(counts: Mapping[str, int], places: Mapping[str, str]) -> str:
    """The most frequent reasons, each with its number and first place."""
    frequent = sorted(counts, key=lambda reason: -counts[reason])
    told = [f"{counts[why]} x {why} (first {places[why]})" for why in frequent[:SHOWN]]
    if len(frequent) > SHOWN:
        told.append(f"{len(frequent) - SHOWN} more reasons")
    return "; ".join(told)

"""What can go wrong with a server, on demand."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from llmsched_gym.checks import is_positive, is_whole
from llmsched_gym.workload.inputs import shown

OF_A_REQUEST = {
    "refuse": "the connection is closed without an answer",
    "error": "an error with code 500 within the stream",
    "context": "the error within the stream by which llama.cpp says that its context is too small",
    "cut": "the stream ends without a word",
    "silent": "nothing more comes, for ever",
    "garbage": "something that is no event comes",
    "few": "one token less than asked for",
    "usage": "one prompt token more is counted than there are",
    "nousage": "no usage at the end",
}
OF_THE_SERVER = {
    "loading": "all requests are answered with 503",
    "freeze": "the whole server stands still, as after SIGSTOP",
    "die": "the server dies, as after SIGKILL, and comes back on the same port",
}
FAULTS = OF_A_REQUEST | OF_THE_SERVER  # what happens, by kind; or a status from 400 to 599


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with some requests for tokens, counted from 0 in the order they come.

    Parameters
    ----------
    kind : in ``FAULTS``, or a status from 400 to 599 as text.
    first : the number of the first request that it hits, default 0.
    count : how many requests it hits, one after the other, default 1.
    after : tokens that come before it, default 1; it makes no difference to the kinds that replace
        the whole answer or its end.
    seconds : how long what hits the whole server (loading, freeze, die) lasts, default 0.5. With
        ``after=0`` and ``first=0`` it begins with the server itself: a slow start.

    Raises
    ------
    ValueError
        for an unknown kind or a number out of range.
    """

    kind: str
    first: int = 0
    count: int = 1
    after: int = 1
    seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in FAULTS and not self.status:
            raise ValueError(
                f"fault: unknown {shown(self.kind)}, choose from {', '.join(FAULTS)} or a status "
                "from 400 to 599"
            )
        for name, least in (("first", 0), ("count", 1), ("after", 0)):
            if not is_whole(getattr(self, name), least):
                raise ValueError(
                    f"fault: {name}: {shown(getattr(self, name))} is not a whole number of at "
                    f"least {least}"
                )
        if not is_positive(self.seconds):
            raise ValueError(f"fault: seconds: {shown(self.seconds)} is not a time above 0")

    @property
    def status(self) -> int:
        """The status that replaces the answer, 0 if it is another kind."""
        known = self.kind.isascii() and self.kind.isdigit() and 400 <= int(self.kind) <= 599
        return int(self.kind) if known else 0

    def hits(self, number: int) -> bool:
        """Whether it hits the request of this number."""
        return self.first <= number < self.first + self.count

    @classmethod
    def parse(cls, text: str) -> Fault:
        """A fault as it is given on a command line: ``cut,first=3,after=2``.

        Raises
        ------
        ValueError
            if it is none.
        """
        kind, *options = text.split(",")
        given: dict[str, Any] = {}
        valid = [one.name for one in fields(cls) if one.name != "kind"]
        for option in options:
            name, _, value = option.partition("=")
            if name not in valid:
                raise ValueError(f"fault: unknown option {shown(name)}; valid: {', '.join(valid)}")
            try:
                given[name] = float(value) if name == "seconds" else int(value)
            except ValueError:
                raise ValueError(f"fault: {name}: {shown(value)} is not a number") from None
        return cls(kind, **given)

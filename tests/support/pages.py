"""The pages people read: their programs and their commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}
_BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELLS = ("", "sh", "bash", "shell", "console")
_BEGINS = r"(?:[A-Z_]+=\S+ )*(?:python(?! -c)|llmsched-\w+|make|pip|mkdocs|docker)\b"
_SAVED = re.compile(r"\A# (\w+\.py)\n|[Ss]ave this as `(\w+\.py)`")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


class Command(NamedTuple):
    """A command as it is typed: on which page, and its text without the comment."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """What a shell makes of it, without variables and what follows a pipe or ``>``."""
        words = shlex.split(self.text)
        while re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        ends = [words.index(sign) for sign in ("|", ">", "&", "&&", ";") if sign in words]
        return words[: min(ends, default=len(words))]

    @property
    def unquoted(self) -> str:
        """What of it no quotes hold together."""
        return _QUOTED.sub("", self.text)


class Program(NamedTuple):
    """A block of Python: the line it begins at, its text, and the file it is to be saved as."""

    line: int
    text: str
    file: str | None


def text_of(page: str) -> str:
    """The whole page."""
    return PAGES[page].read_text(encoding="utf-8")


def programs(page: str) -> list[Program]:
    """The Python of a page, in its order."""
    text = text_of(page)
    found = []
    for block in _BLOCK.finditer(text):
        if block[1] != "python":
            continue
        line = text.count("\n", 0, block.start()) + 2
        before = text[: block.start()].rstrip().rpartition("\n\n")[2]
        saved = _SAVED.match(block[2]) or _SAVED.search(before)
        name = (saved[1] or saved[2]) if saved else None
        found.append(Program(line, block[2], name))
    return found


def commands() -> list[Command]:
    """The commands of all pages, each once, those in the middle of a line as well."""
    found = {Command(page, text): None for page in PAGES for text in _commands(text_of(page))}
    seen: dict[str, Command] = {}
    for one in found:
        seen.setdefault(one.text, one)
    return list(seen.values())


def _commands(text: str) -> Iterator[str]:
    plain = _BLOCK.sub(lambda b: b[2] if b[1] in _SHELLS else "\n", text)
    plain = re.sub(r" *\\\n\s*", " ", plain)
    for line in re.findall(rf"^(?: {{4}})?(?:\$ )?({_BEGINS}.*)$", plain, re.MULTILINE):
        yield _without_comment(line)
    for line in re.findall(r"(?<!`)`((?:python (?:evaluate|train)\.py|make) [^`]+)`(?!`)", plain):
        yield _without_comment(" ".join(line.split()))


def _without_comment(line: str) -> str:
    for sign in re.finditer(r"\s#", line):
        if not sum(line[: sign.start()].count(quote) % 2 for quote in "'\""):
            return line[: sign.start()].rstrip()
    return line.rstrip()

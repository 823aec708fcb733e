"""Docstrings and signatures of the package as Markdown.

Docstrings are those of numpy, in the short form of this project: ``name : what it is, unit``.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

_UNDERLINED = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)
_NAMED = re.compile(r"[\w, ]+ : ")
LISTED = ("Parameters", "Attributes", "Raises")
WIDTH = 88  # of a signature on one line


def sections(docstring: str | None) -> dict[str, str]:
    """The texts of a docstring by their titles; that of what comes first is ""."""
    parts = _UNDERLINED.split(inspect.cleandoc(docstring or ""))
    found = {"": parts[0].strip()}
    return found | {title: text.strip("\n") for title, text in _pairs(parts[1:])}


def entries(section: str) -> list[tuple[str, str]]:
    """The entries of a section, as pairs of names and what is said of them in one paragraph.

    A paragraph that is no entry has no names.
    """
    found: list[tuple[str, str]] = []
    lines = [line for line in section.splitlines() if line.strip()]
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        names, said = found[-1] if found else ("", "")
        if line[0] == " " or (not _is_entry(line, following) and found and not names):
            found[-1] = names, f"{said} {line.strip()}".strip()
        elif _is_entry(line, following):
            names, _, said = line.partition(" : ")
            found.append((names.strip(), said.strip()))
        else:
            found.append(("", line))
    return found


def _is_entry(line: str, following: str) -> bool:
    return " : " in line or following.startswith(" ")


def meanings(documented: Any) -> dict[str, str]:
    """What a docstring says of each parameter and attribute, by its name."""
    parts = sections(documented.__doc__)
    listed = [*entries(parts.get("Parameters", "")), *entries(parts.get("Attributes", ""))]
    return {name.strip(): plain(said) for names, said in listed for name in names.split(",")}


def markdown(docstring: str | None) -> str:
    """A docstring as Markdown: its text, then a list for each of its sections."""
    lines = []
    for title, text in sections(docstring).items():
        if title:
            lines += [f"**{title}**", ""]
        if title in LISTED or (title == "Returns" and _NAMED.match(text)):
            lines += list(_listed(text))
        else:
            lines.append(_blocks(text))
        lines.append("")
    return "\n".join(lines).strip()


def plain(text: str) -> str:
    """Text of reStructuredText, as it stands in docstrings, as Markdown."""
    text = re.sub(r":(?:meth|func):`~?([\w.]+)`", lambda m: f"`{_last(m[1])}()`", text)
    text = re.sub(r":\w+:`~([\w.]+)`", lambda m: f"`{_last(m[1])}`", text)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def signature(name: str, called: Any) -> str:
    """A call as Python writes it, on lines of its own where it is long."""
    try:
        given = inspect.signature(called)
    except (TypeError, ValueError):
        return name
    bare = given.replace(
        parameters=[
            one.replace(annotation=_unquoted(one.annotation)) for one in given.parameters.values()
        ],
        return_annotation=_unquoted(given.return_annotation),
    )
    text = f"{name}{bare}"
    if len(text) <= WIDTH:
        return text
    lines = [f"    {one}," for one in _split(bare)]
    returned = "" if bare.return_annotation is bare.empty else f" -> {bare.return_annotation!r}"
    return "\n".join([f"{name}(", *lines, f"){returned}"])


def table(titles: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """A table in Markdown, and an empty line after it."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    head = list(titles)
    lines = [head, ["---"] * len(head), *cells]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def code(text: str) -> str:
    """Text as code, nothing as nothing."""
    return f"`{text}`" if text else ""


class _Bare(str):
    """An annotation that is shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _unquoted(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _split(given: inspect.Signature) -> Iterator[str]:
    """The parameters, with the / and * between their kinds."""
    before = None
    for one in given.parameters.values():
        if before is one.POSITIONAL_ONLY != one.kind:
            yield "/"
        if one.kind is one.KEYWORD_ONLY and before not in (one.VAR_POSITIONAL, one.KEYWORD_ONLY):
            yield "*"
        before = one.kind
        yield str(one)


def _listed(text: str) -> Iterator[str]:
    for names, said in entries(text):
        shown = ", ".join(f"`{name.strip()}`" for name in names.split(","))
        yield f"- {shown}: {plain(said)}" if names else f"\n{plain(said)}"


def _blocks(text: str) -> str:
    """Text with the programs that follow ``::`` fenced, and lists apart from what leads to them."""
    text = re.sub(r"^([^-\s].*)\n(?=- )", r"\1\n\n", text, flags=re.MULTILINE)
    parts = re.split(r"::\n\n((?:(?: {4}[^\n]*)?(?:\n|$))+)", text)
    shown = plain(parts[0])
    for program, after in _pairs(parts[1:]):
        shown += f":\n\n```python\n{textwrap.dedent(program).strip()}\n```\n\n{plain(after)}"
    return shown.rstrip()


def _pairs(parts: list[str]) -> Iterator[tuple[str, str]]:
    return zip(parts[::2], parts[1::2], strict=True)


def _last(name: str) -> str:
    return name.rpartition(".")[2]

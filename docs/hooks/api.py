"""Pages of the Python API: the public names of each room, with signatures and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

from docstrings import markdown, plain, sections, signature, table

from llmsched_gym.env.features import Feature

ROOMS = {
    "workload": "What arrives",
    "cluster": "What runs it",
    "belief": "What is known",
    "env": "What an agent sees",
    "agents": "Who decides",
    "evaluation": "Who compares",
    "rendering": "Pictures of a run",
    "testbed": "A cluster that is real",
}
MODULES = {"testing": "Checks for code of one's own"}  # public without a face
LONGEST = 300  # characters of the value of a constant


def pages() -> dict[str, str]:
    """All pages of the API, by their paths."""
    made = {f"reference/api/{room}.md": _page(room) for room in ROOMS}
    made |= {f"reference/api/{name}.md": _page(name) for name in MODULES}
    rows = [
        (f"[`{name}`](api/{name}.md)", title, ", ".join(f"`{n}`" for n in public(name)))
        for name, title in (ROOMS | MODULES).items()
    ]
    text = ["# Python API", "", "Names are imported from the rooms of `llmsched_gym`:", ""]
    text += table(("room", "what", "names"), rows)
    return made | {"reference/api.md": "\n".join(text)}


def public(room: str) -> list[str]:
    """The names that users can rely on, modules last."""
    module = import_module(f"llmsched_gym.{room}")
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    ]
    return sorted(names, key=lambda n: (isinstance(getattr(module, n), ModuleType), n.lower()))


def _page(room: str) -> str:
    module = import_module(f"llmsched_gym.{room}")
    about = markdown(module.__doc__).partition("\n\nIts public names")[0]
    lines = [f"# llmsched_gym.{room}", "", about, ""]
    for name in public(room):
        lines += [f"## {name} {{ #{name} }}", "", *_described(name, getattr(module, name)), ""]
    return "\n".join(lines)


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield from _of_class(name, value)
    elif inspect.isroutine(value):
        yield from _of_call(name, value)
    elif isinstance(value, ModuleType):
        yield plain(sections(value.__doc__)[""])
    else:
        yield from _of_constant(value)


def _of_class(name: str, value: type[Any]) -> Iterator[str]:
    bare = issubclass(value, Exception) or getattr(value, "_is_protocol", False)
    called = name if bare else signature(name, value)
    yield from ("```python", called.removesuffix(" -> None"), "```", "")
    if issubclass(value, Exception):
        yield f"An exception, a `{value.__mro__[1].__name__}`."
        yield ""
    yield markdown(value.__doc__)
    for member, found in sorted(_members(value).items()):
        yield from ("", f"### {name}.{member} {{ #{name}.{member} }}", "")
        if isinstance(found, property | cached_property):
            returned = _annotation(found.fget if isinstance(found, property) else found.func)
            yield from (f"*property*{returned}", "", markdown(found.__doc__))
        else:
            yield from _of_call(member, getattr(value, member), bound=not _is_bound(found))


def _of_call(name: str, called: Callable[..., Any], bound: bool = False) -> Iterator[str]:
    text = signature(name, called)
    if bound:  # what Python gives it by itself is not shown
        text = text.replace("(self, ", "(").replace("(self)", "()").replace("    self,\n", "")
    yield from ("```python", text, "```", "", markdown(called.__doc__))


def _of_constant(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        names = ", ".join(f"`{key}`" for key in value)
        yield f"*dictionary* with {names}"
        return
    if isinstance(value, tuple) and all(isinstance(one, Feature) for one in value):
        names = ", ".join(f"`{one.name}`" for one in value)
        yield f"*tuple* of features, see [spaces](../spaces.md): {names}"
        return
    shown = repr(value)
    yield f"`{shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + '...'}`"


def _members(value: type[Any]) -> dict[str, Any]:
    """The public methods and properties that our code gives a class, with docstrings."""
    found: dict[str, Any] = {}
    for base in reversed(value.__mro__):
        if base.__module__.startswith("llmsched_gym"):
            found |= vars(base)
    return {
        name: member
        for name, member in found.items()
        if not name.startswith("_")
        and (isinstance(member, property | classmethod | staticmethod) or inspect.isroutine(member))
        and getattr(member, "__doc__", None)
    }


def _is_bound(member: Any) -> bool:
    return isinstance(member, classmethod | staticmethod)


def _annotation(called: Any) -> str:
    returned = getattr(called, "__annotations__", {}).get("return")
    return f": `{returned}`" if returned else ""

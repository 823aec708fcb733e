"""What a command says while it compiles, reads a workload and fits a belief."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

from llmsched_gym.belief import fitting
from llmsched_gym.cluster import simulator
from llmsched_gym.compiled import is_kept
from llmsched_gym.env import observation
from llmsched_gym.errors import printable
from llmsched_gym.notes import during, is_quiet, note

COMPILED = (simulator.step, observation.observe)  # of what every command compiles


def tell_of_compiling() -> None:
    """Say why the first run takes longer, if this is one."""
    if not is_quiet() and not is_compiled():
        note("compiling", "compiling, once, about a minute")


def is_compiled() -> bool:
    """Whether all that a command needs was compiled before."""
    return all(is_kept(one) for one in COMPILED)


def compile_first(play: Callable[[], Any]) -> None:
    """Play, if nothing is compiled yet: processes that are started later find it on the disk.

    Each of them would compile it all for itself, at the same time.
    """
    if not is_compiled():
        with reading("compiling"):
            play()


@contextmanager
def reading(text: str) -> Iterator[None]:
    """Show a text, and behind it each application whose belief is fitted.

    It stays on a terminal; where there is none it is a line, and another one every 10 s.
    """
    console = Console(stderr=True)
    shown = [text]
    if console.is_terminal:
        status = console.status(escape(text))
        with status, _fits(lambda fit: status.update(escape(fit)), text):
            yield
    else:
        with during(lambda: shown[-1]), _fits(shown.append, text):
            yield


@contextmanager
def _fits(show: Callable[[str], None], text: str) -> Iterator[None]:
    """Show a text with each application whose belief is fitted behind it, as it begins."""

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(printable(f"{text}, {record.getMessage()}"))

    logger, handler = logging.getLogger(fitting.__name__), Shown()
    before = logger.level, logger.disabled, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.disabled = logger.propagate = False  # Hydra silences loggers
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.disabled, logger.propagate = before[1:]

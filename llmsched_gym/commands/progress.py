"""What a command says while it compiles, reads a workload and fits a belief."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from llmsched_gym.belief import fitting
from llmsched_gym.cluster import simulator
from llmsched_gym.compiled import is_kept
from llmsched_gym.env import observation
from llmsched_gym.notes import is_quiet, note

COMPILED = (simulator.step, observation.observe)  # of what every command compiles


def tell_of_compiling() -> None:
    """Say why the first run takes longer, if this is one."""
    if not is_quiet() and not all(is_kept(one) for one in COMPILED):
        note("compiling", "compiling, once, about a minute")


@contextmanager
def reading(text: str) -> Iterator[None]:
    """Show a text on a terminal, and behind it each application whose belief is fitted."""
    with Console(stderr=True).status(text) as status:

        class Shown(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                status.update(f"{text}, {record.getMessage()}".replace("[", r"\["))

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

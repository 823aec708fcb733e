"""What a command says while it reads a workload and fits a belief."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from llmsched_gym.belief import fitting


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

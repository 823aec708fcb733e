"""Work in several processes, with the same results as in one."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def cores() -> int:
    """How many processes can run at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_processes(
    function: Callable[..., T],
    context: Any,
    items: Sequence[Any],
    processes: int,
    done: Callable[[int], None],
) -> list[T]:
    """``[function(context, item) for item in items]``, begun in this order.

    Each process is sent the context once. Processes end when this one does, however it ends.

    Parameters
    ----------
    function
        At the top level of a module.
    processes
        With 1 all is done in this process.
    done
        Called with the index of an item, after it.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        results = []
        for index, item in enumerate(items):
            results.append(function(context, item))
            done(index)
        return results
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start_worker, (function, context)
    ) as pool:
        try:
            with _interrupts_postponed():
                futures = {pool.submit(_work, item): index for index, item in enumerate(items)}
            for future in as_completed(futures):
                future.result()
                done(futures[future])
        except BaseException:  # an interrupt, too: episodes that do not count are not awaited
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
    return [future.result() for future in futures]


@contextmanager
def _interrupts_postponed() -> Iterator[None]:
    """Ctrl-C takes effect afterwards, and never in processes that are started meanwhile."""
    interrupts: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    if sys.platform != "win32":
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    try:
        yield
    finally:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        raise KeyboardInterrupt


_function: Callable[..., Any]  # of this worker process
_context: Any


def _start_worker(function: Callable[..., Any], context: Any) -> None:
    global _function, _context
    _function, _context = function, context
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed process cannot tell its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(item: Any) -> Any:
    return _function(_context, item)


def start_ray(address: str | None, num_cpus: int | None = None) -> Any:
    """The module ``ray``, connected to a cluster at an address, or to a new one on this machine.

    Parameters
    ----------
    num_cpus
        Of a new one, default all of this machine.

    Raises
    ------
    ImportError
        if Ray is not installed.
    OSError
        if there is none at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "Ray is not installed: pip install 'llmsched-gym[distributed]'"
        ) from error
    try:
        if address and ":" in address and "//" not in address:  # Ray itself tries for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            address=address or "local",
            num_cpus=None if address else num_cpus,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(f"no Ray at {address!r} ({error})") from error
    return ray

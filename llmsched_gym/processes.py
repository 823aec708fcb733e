"""Work in several processes, with the same results as in one."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from llmsched_gym.errors import Interrupted

if sys.platform != "win32":
    from multiprocessing import resource_tracker

T = TypeVar("T")
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class WorkerDied(RuntimeError):
    """A process that did a part of the work is gone: one line that says how."""


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

    Each process is sent the context once. Processes end when this one does, however it ends. They
    are told everything through pipes of their own, so that nothing is left behind on a disk or in
    shared memory, and a process that dies, at birth or later, is noticed at once.

    Parameters
    ----------
    function
        At the top level of a module.
    processes
        With 1 all is done in this process.
    done
        Called with the index of an item, after it.

    Raises
    ------
    WorkerDied
        if a process is killed. What ``function`` raises is raised here.
    """
    processes = min(processes, len(items))
    results: dict[int, T] = {}
    if processes <= 1:
        for index, item in enumerate(items):
            results[index] = function(context, item)
            done(index)
        return list(results.values())
    given, waiting = pickle.dumps((function, context)), iter(range(len(items)))
    busy: dict[Connection, int] = {}

    def go_on(pipe: Connection) -> None:
        for index in waiting:
            _tell(pipe, pickle.dumps(items[index]), workers)
            busy[pipe] = index
            break

    with _started(processes) as workers:
        for pipe in workers:
            _tell(pipe, given, workers)
            go_on(pipe)
        while busy:
            wait([*busy, *(workers[pipe].sentinel for pipe in busy)])
            for pipe in [one for one in busy if one.poll() or not workers[one].is_alive()]:
                index = busy.pop(pipe)
                results[index] = _answer(pipe, workers)
                done(index)
                go_on(pipe)
    return [results[index] for index in range(len(items))]


@contextmanager
def _started(processes: int) -> Iterator[Mapping[Connection, BaseProcess]]:
    """New processes by the pipes to them; in the end they are gone."""
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    worker: BaseProcess
    try:
        with _interrupts_postponed(), _interrupts_blocked():
            for _ in range(processes):
                pipe, other_end = context.Pipe()
                # All that is sent before the process reads is small: a pipe that is full would
                # block this process for ever if the other one is killed at birth.
                worker = context.Process(target=_serve, args=(other_end,))
                workers[pipe] = worker
                worker.start()
                other_end.close()  # so that a pipe ends with its process
        yield workers
        for pipe, worker in workers.items():
            pipe.close()  # which ends a process that is waiting for work
            worker.join(10)
    finally:  # after an interrupt, too: episodes that do not count are not awaited
        for pipe, worker in workers.items():
            pipe.close()
            if worker.pid is not None:
                worker.kill()
                worker.join()


def _tell(pipe: Connection, message: bytes, workers: Mapping[Connection, BaseProcess]) -> None:
    try:
        pipe.send_bytes(message)
    except OSError:
        raise _died(workers[pipe]) from None


def _answer(pipe: Connection, workers: Mapping[Connection, BaseProcess]) -> Any:
    try:
        if not pipe.poll():
            raise EOFError
        answer = pipe.recv_bytes()
    except (EOFError, OSError):
        raise _died(workers[pipe]) from None
    return _opened(answer)


def _opened(answer: bytes) -> Any:
    """What came out of :func:`_outcome`; what was raised there is raised here."""
    good, content = pickle.loads(answer)
    if not good:
        error, told = content
        raise error from _Told(told)
    return content


def _died(worker: BaseProcess) -> WorkerDied:
    worker.join(10)
    code = worker.exitcode
    if code is not None and code < 0:
        how = f"was killed by signal {-code}"
        if -code == signal.SIGKILL:
            how += ", as happens where memory runs out: fewer processes need less"
    else:
        how = f"ended with exit code {code}"
    return WorkerDied(f"a process that played episodes {how}")


class _Told(Exception):
    """The traceback of another process, for those who read this one's."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@contextmanager
def _interrupts_postponed() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = [
        signal.signal(one, lambda number, _frame: came.append(number)) for one in INTERRUPTS
    ]
    try:
        yield
    finally:
        for number, handler in zip(INTERRUPTS, handlers, strict=True):
            signal.signal(number, handler)
    if signal.SIGINT in came:
        raise Interrupted
    if came:
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started meanwhile inherit it: they would print a traceback while they import."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # else the first process starts it, which unblocks signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# --- in a worker process --------------------------------------------------------------------------


def _serve(pipe: Connection) -> None:
    """Read the function and its context, then item by item, and answer each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        given = pipe.recv_bytes()
        while True:
            pipe.send_bytes(_outcome(given, pipe.recv_bytes()))


def _end_with_parent() -> None:
    """A killed process cannot tell its workers to stop what they are doing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _outcome(given: bytes, item: bytes) -> bytes:
    """True and the result of an item; or False, and what was raised and where."""
    try:
        function, context = _loaded(given)
        return pickle.dumps((True, function(context, pickle.loads(item))))
    except BaseException as error:
        told = "".join(traceback.format_exception(error))
        try:
            packed = pickle.dumps((False, (error, told)))
            pickle.loads(packed)
        except Exception:  # an error that cannot be sent
            return pickle.dumps((False, (RuntimeError(f"{type(error).__name__}: {error}"), told)))
        return packed


@lru_cache(maxsize=1)
def _loaded(given: bytes) -> Any:
    return pickle.loads(given)


# --- Ray ------------------------------------------------------------------------------------------


def start_ray(address: str | None, num_cpus: int | None = None) -> Any:
    """The module ``ray``, connected to a cluster at an address, or to a new one on this machine.

    A new one is reached from this machine alone.

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
    alone = address in (None, "local")
    if alone:
        # Ray calls a node by its outer address and listens to all the world, and takes "127.0.0.1"
        # for that address; but where it makes no clusters by default, it keeps to the loopback.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
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
            log_to_driver=False,
            logging_level=logging.ERROR,
            num_cpus=num_cpus if alone else None,
            include_dashboard=False if alone else None,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(f"no Ray at {address!r} ({error})") from error
    return ray


def map_ray(
    function: Callable[..., T], context: Any, items: Sequence[Any], ray: Any
) -> Iterator[tuple[int, T]]:
    """The index of an item and ``function(context, item)``, as they are finished.

    They are tasks of a core each, begun in the order of the items. What is lost with a machine is
    done again on another.

    Parameters
    ----------
    function
        At the top level of a module that all machines have.
    ray
        The module, connected: :func:`start_ray`.

    Raises
    ------
    WorkerDied
        if nobody is left to do it. What ``function`` raises is raised here.
    """
    task = ray.remote(num_cpus=1, max_retries=3)(_outcome)
    given = ray.put(pickle.dumps((function, context)))
    waiting = {task.remote(given, pickle.dumps(item)): index for index, item in enumerate(items)}
    while waiting:
        (done, *_), _ = ray.wait(list(waiting))
        try:
            answer = ray.get(done)
        except ray.exceptions.RayError as error:
            told = str(error).strip().partition("\n")[0]
            raise WorkerDied(f"a task of Ray that played episodes is lost: {told}") from error
        yield waiting.pop(done), _opened(answer)

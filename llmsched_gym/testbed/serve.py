"""Serve a model on this machine: llama.cpp's server, or the fake one.

``python -m llmsched_gym.testbed.serve --size 100M --slots 4 --port 8001``

llama.cpp comes as the package ``xllamacpp``. Its server runs in this process until that is told to
end by SIGTERM or Ctrl-C, since it cannot be stopped otherwise.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event
from typing import Any, NoReturn

from llmsched_gym.cluster.latency import PREFILLS, LatencyProfile
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.errors import one_line, printable
from llmsched_gym.processes import cores
from llmsched_gym.testbed.child import (
    WHILE_READ,
    NotServed,
    Served,
    end_quietly,
    end_with_stdin,
    ready_line,
    started,
)
from llmsched_gym.testbed.extra import NEEDED
from llmsched_gym.testbed.fake import Engine, run_fake
from llmsched_gym.testbed.faults import Fault
from llmsched_gym.testbed.gguf_model import SIZES, model_file
from llmsched_gym.workload.inputs import given_path, other_than_file

PROGRAM = "llmsched_gym.testbed.serve"
SLOTS, CONTEXT, TOKEN_BUDGET = 8, 2048, 2048
MOST_SLOTS, MOST_TOKENS = 1024, 2**20


@contextmanager
def serving(
    size: str = "4M",
    slots: int = SLOTS,
    *,
    model: Path | None = None,
    context: int = CONTEXT,
    token_budget: int = TOKEN_BUDGET,
    port: int = 0,
) -> Iterator[Served]:
    """A llama.cpp server in a process of its own, which ends with this context.

    Parameters
    ----------
    size : of the model of random weights, a name in ``gguf_model.SIZES``.
    slots : requests that it serves at once.
    model : a GGUF file to serve instead.
    context : tokens of the longest prompt and its output.
    token_budget : tokens of one iteration at most.
    port : on 127.0.0.1, default any free one.

    Raises
    ------
    NotServed
        if it does not start: one line that says why.
    """
    command = ["-m", PROGRAM, WHILE_READ, f"--slots={slots}", f"--context={context}"]
    command += [f"--token-budget={token_budget}", f"--port={port}"]
    command.append(f"--size={size}" if model is None else f"--model={model}")
    with started(command, slots) as served:
        yield served


def main(argv: Sequence[str] | None = None) -> None:
    """Serve as the arguments say, by default the process's own, until told to end.

    Exits with code 2 and one line for bad input, and with code 1 and one line if nothing can be
    served.
    """
    given = _parser().parse_args(argv)
    try:
        _check(given)
        if given.while_stdin:
            end_with_stdin()
        if given.count > 1:
            _serve_several(given)
        elif given.fake is not None:
            run_fake(_profile(given), given.slots, map(Fault.parse, given.fault), given.port)
        else:
            _serve_llama(given)
    except (ValueError, FileNotFoundError) as error:
        _fail(2, one_line(error))
    except (NotServed, OSError) as error:
        _fail(1, one_line(error))


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        _fail(2, message)


def _fail(code: int, message: str) -> NoReturn:
    print(f"serve: {printable(message)}", file=sys.stderr)
    sys.exit(code)


def _parser() -> ArgumentParser:
    parser = _Parser(prog=f"python -m {PROGRAM}", description="Serve a model on this machine.")
    add = parser.add_argument
    add("--size", default="4M", choices=SIZES, help="of a model of random weights (%(default)s)")
    add("--model", type=Path, help="a GGUF file to serve instead")
    add("--slots", type=_whole(1, MOST_SLOTS), default=SLOTS, help="requests at once (%(default)s)")
    add("--port", type=_whole(0, 65535), default=0, help="on 127.0.0.1 (any free one)")
    add(
        "--context",
        type=_whole(2, MOST_TOKENS),
        default=CONTEXT,
        help="tokens of the longest prompt and its output (%(default)s)",
    )
    add(
        "--token-budget",
        type=_whole(2, MOST_TOKENS),
        help=f"tokens of one iteration at most ({TOKEN_BUDGET}; of a fake: as its profile says)",
    )
    add(
        "--threads",
        type=_whole(1, 1024),
        default=max(1, cores() - 1),
        help="that compute (one less than there are cores: %(default)s)",
    )
    add("--count", type=_whole(1, 64), default=1, help="servers, on ports one after the other")
    add(
        "--fake",
        nargs="?",
        const="constant",
        metavar="PROFILE",
        help="compute nothing, but take as long as this preset or YAML file says (constant)",
    )
    add("--prefill", choices=PREFILLS, help="of a fake, instead of its profile's")
    add(
        "--fault",
        action="append",
        default=[],
        help="of a fake: e.g. cut,first=3,count=2,after=1, or 503, or die,seconds=0.5",
    )
    add(WHILE_READ, action="store_true", help=SUPPRESS)
    return parser


def _whole(least: int, most: int) -> Any:
    """What argparse reads a whole number with."""

    def read(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError
        return value

    read.__name__ = f"whole number from {least} to {most}"
    return read


def _check(given: Namespace) -> None:
    """ValueError if options do not go together."""
    if given.fake is None and given.prefill is not None:
        raise ValueError("--prefill: only a --fake has it, llama.cpp's is mixed")
    if given.fake is None and given.fault:
        raise ValueError("--fault: only a --fake has it")
    if given.fake is not None and given.model is not None:
        raise ValueError("--model: not with --fake, which has none")
    if given.port and given.port + given.count - 1 > 65535:
        raise ValueError(f"--port, --count: the last port would be {given.port + given.count - 1}")
    if given.fake is not None:
        _profile(given)
    for fault in given.fault:
        Fault.parse(fault)


def _profile(given: Namespace) -> LatencyProfile:
    """The profile of a fake, with the traits that are given."""
    profile = load_cluster(given.fake).latency
    prefill = given.prefill or profile.prefill
    budget = given.token_budget or profile.token_budget
    if prefill == "mixed":
        profile = replace(profile, prefill=prefill, token_budget=budget or TOKEN_BUDGET)
    else:
        profile = replace(profile, prefill=prefill, token_budget=given.token_budget)
    Engine(profile, given.slots)
    return profile


def _serve_several(given: Namespace) -> NoReturn:
    """Serve in a process for each server, until told to end."""
    arguments = _arguments(given)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: sys.exit(0))
    with ExitStack() as servers:
        for index in range(given.count):
            port = given.port + index if given.port else 0
            command = ["-m", PROGRAM, WHILE_READ, *arguments, f"--port={port}"]
            served = servers.enter_context(started(command, given.slots))
            print(ready_line(served.url, f"{given.slots} slots, pid {served.pid}"), flush=True)
        Event().wait()  # until a signal
    raise AssertionError("it serves for ever")


def _arguments(given: Namespace) -> list[str]:
    """What is given for each of several servers, as arguments."""
    names = ("size", "model", "slots", "context", "token_budget", "threads", "fake", "prefill")
    values = {name.replace("_", "-"): getattr(given, name) for name in names}
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return arguments + [f"--fault={fault}" for fault in given.fault]


def _serve_llama(given: Namespace) -> NoReturn:
    """Serve by llama.cpp in this process, until told to end."""
    end_quietly()
    path = model_file(given.size) if given.model is None else _model(given.model)
    name = given.size if given.model is None else path.stem
    port = _free(given.port)
    parameters = _parameters(path, name, port, given)
    xllamacpp = _xllamacpp()
    with _stderr_kept() as said:
        try:
            server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise NotServed(f"llama.cpp: {_first_error(said()) or one_line(error)}") from None
    what = f"llama.cpp {name}, {given.slots} slots, pid {os.getpid()}"
    print(ready_line(server.listening_address, what), flush=True)
    Event().wait()  # until a signal
    raise AssertionError("it serves for ever")


def _xllamacpp() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise ImportError(NEEDED) from error
    return xllamacpp


def _parameters(path: Path, name: str, port: int, given: Namespace) -> Any:
    """llama.cpp's parameters: a plain engine that caches nothing from one request to the next."""
    parameters = _xllamacpp().CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {name}
    parameters.port = port  # on 127.0.0.1, its default
    parameters.n_parallel = given.slots
    parameters.cont_batching = True
    # One pool for all slots, that holds what all may need. Else slots that are not neighbours would
    # be computed one after the other.
    parameters.kv_unified = True
    parameters.n_ctx = given.slots * given.context
    parameters.fit_params = False  # the context stays as it is, whatever memory there is
    parameters.n_batch = given.token_budget or TOKEN_BUDGET
    parameters.n_ubatch = min(512, parameters.n_batch)
    parameters.cache_prompt = False
    parameters.cache_ram_mib = 0
    parameters.cache_idle_slots = False
    parameters.slot_prompt_similarity = 0.0
    parameters.n_gpu_layers = 0
    # With as many threads as cores they wait for each other whenever another process runs.
    parameters.cpuparams.n_threads = given.threads
    parameters.cpuparams_batch.n_threads = given.threads
    parameters.n_threads_http = given.slots + 4  # each stream keeps one
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = True
    parameters.ui = False
    parameters.warmup = True
    parameters.verbosity = 1  # errors
    return parameters


def _model(path: Path) -> Path:
    """A model file that a user gave; ValueError if it is none."""
    path = given_path("--model", path)
    if kind := other_than_file(path):
        raise ValueError(f"--model: {path}: {kind}, not a file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"--model: {path}: not a GGUF file")
    return path


def _free(port: int) -> int:
    """The port, if nobody listens to it; OSError with its number if somebody does."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            raise OSError(f"port {port}: {os.strerror(error.errno or 0)}") from None
    return port


@contextmanager
def _stderr_kept() -> Iterator[Callable[[], str]]:
    """Keep what is written to stderr meanwhile, by C++ too; a function that reads it."""
    sys.stderr.flush()
    before = os.dup(2)
    with TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)

        def said() -> str:
            kept.seek(0)
            return kept.read().decode("utf-8", "replace")

        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)


def _first_error(said: str) -> str:
    """The first error that llama.cpp told: ``0.00.003.232 E function: what``."""
    return next((line.partition(" E ")[2] for line in said.splitlines() if " E " in line), "")


if __name__ == "__main__":
    main()

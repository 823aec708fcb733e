"""``evaluate.py backend=testbed``: the comparison of policies on LLM servers, in real time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmsched_gym.cluster.calibration import write_cluster
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.commands.comparison import (
    EvaluateSettings,
    kept,
    kept_settings,
    load_of,
    progress_of,
    runs_of,
    show,
    shown_to,
)
from llmsched_gym.commands.groups import groups
from llmsched_gym.commands.progress import reading, tell_of_compiling
from llmsched_gym.commands.settings import CALIBRATED, Options, cluster_of, environment, options
from llmsched_gym.errors import InputError, one_line, printable
from llmsched_gym.evaluation.comparison import Run
from llmsched_gym.evaluation.kept import LOGS, forget
from llmsched_gym.evaluation.live import LiveEvaluation, Unfinished, check, measured, on_servers
from llmsched_gym.files import replacing, staged
from llmsched_gym.settings import Settings
from llmsched_gym.testbed.clock import StolenTimeClock
from llmsched_gym.testbed.servers import Servers

CLUSTER = "cluster.yaml"  # in the folder of results, where it was measured
SETTINGS = f"{LOGS}/settings.json"  # of the run whose episodes are kept there


class ServerSettings(Settings):
    """The options that begin with ``testbed.``; :class:`Servers` checks what they are."""

    url: Any
    slots: Any
    model: Any
    timeout_s: Any
    retries: Any
    tools: Any
    pids: Any


def evaluate_on_servers(given: dict[str, Any], logged: dict[str, Any] | None = None) -> float:
    """Like ``evaluate.py`` in the simulator, but in real time on LLM servers.

    Each episode is kept as it ends, and the same command plays those that are not there yet.

    Raises
    ------
    InputError
        for bad settings, and for a server that fails.
    KeyboardInterrupt
        with a word on what is kept, after the tables of what was finished are written.
    """
    shown = kept_settings(given if logged is None else logged)
    tell_of_compiling()
    with reading("reading the workload, asking the servers"):
        asked = _asked(given)
    settings, folder = asked.settings, asked.settings.output_dir
    with kept(settings, shown, SETTINGS):
        evaluation = _ready(asked, shown)
        total, before = len(evaluation.runs) * evaluation.episodes, evaluation.kept()
        if before:
            tell(f"{before} of {total} episodes were played before, overwrite=true plays all anew")
        result, stopped = None, True
        try:
            with progress_of(evaluation) as (advance, name):
                result, stopped = evaluation.play(advance, name), False
        except Unfinished as error:
            result = error.comparison
        except InputError as error:
            raise InputError(f"{error}; {_kept_line(evaluation, folder)}") from error
        if result is not None:
            with staged(folder) as files:
                result.write(files, settings=shown)
            show(result, folder)
        if stopped or result is None:
            raise KeyboardInterrupt(_kept_line(evaluation, folder))
    return result.mean_jct_s


def _kept_line(evaluation: LiveEvaluation, folder: Path) -> str:
    total = len(evaluation.runs) * evaluation.episodes
    where = f"{evaluation.kept()} of {total} episodes are kept in {printable(str(folder))}"
    return f"{where}, the same command plays the others"


@dataclass(frozen=True)
class _Asked:
    """What the settings name; ``made`` are options of the environment, but for the cluster."""

    settings: EvaluateSettings
    servers: Servers
    cluster: Cluster | None
    runs: tuple[Run, ...]
    made: dict[str, Any]


def _asked(given: dict[str, Any]) -> _Asked:
    """Make everything that the settings name, InputError for what is not right in them."""
    with _one_line():
        settings = EvaluateSettings.read(given)
        if settings.processes not in (None, 1):
            raise ValueError("processes: on servers one episode is played after the other")
        for name in ("animation", "report"):
            if getattr(settings, name):
                raise ValueError(f"{name}: only of what backend=simulator plays")
        servers = servers_of(settings.testbed)
        cluster = given_cluster(options("cluster", settings.cluster, groups()["cluster"]), servers)
        made = environment(settings.workload, None, settings.belief, groups())
        runs = runs_of(settings, made["belief"])
        check(servers, shown_to(settings, made, "none"), cluster)
    return _Asked(settings, servers, cluster, runs, made)


def _ready(asked: _Asked, shown: dict[str, Any]) -> LiveEvaluation:
    """An evaluation that can begin, its folder prepared; InputError, and nothing of it, if not."""
    settings, made, folder = asked.settings, asked.made, asked.settings.output_dir
    with _one_line():
        cluster = asked.cluster or measured_cluster(asked)
        with reading("fitting the belief"):
            evaluation = on_servers(
                asked.servers,
                asked.runs,
                shown_to(settings, made | {"cluster": cluster}, made["belief"]),
                settings.episodes,
                settings.seed,
                load_of(made),
                folder / LOGS,
            )
    begin(folder, shown, None if asked.cluster else cluster, settings.overwrite)
    return evaluation


def servers_of(given: Any) -> Servers:
    """The servers that the options describe.

    Raises
    ------
    ValueError, InputError
        for what is not right in them.
    """
    if not isinstance(given, dict):
        raise ValueError("testbed: it needs options such as testbed.url and testbed.slots")
    options = dict(ServerSettings.read(given, "testbed."))
    url, pids = options.pop("url"), options.pop("pids")
    urls = tuple(url) if isinstance(url, list) else (url,)
    clock = None
    if pids is not None:
        try:
            clock = StolenTimeClock(pids)
        except ValueError as error:
            raise ValueError(f"testbed.pids: {str(error).removeprefix('clock: ')}") from error
    return Servers(urls, clock=clock, **options)


def given_cluster(options: Options, servers: Servers) -> Cluster | None:
    """The cluster whose profile is believed of servers; None if it is to be measured.

    Raises
    ------
    ValueError
        for a size that is not that of the servers, and as :func:`cluster_of`.
    """
    sizes = {"engines": (len(servers.urls), "url"), "max_batch": (servers.slots, "slots")}
    given = dict(options)
    for name, (size, option) in sizes.items():
        if given.pop(name) not in (None, size):
            raise ValueError(f"cluster.{name}: it follows from testbed.{option}, it is {size}")
    if given["name"] != CALIBRATED:
        return cluster_of(**given)
    for name in given.keys() - {"name", "regular_executors"}:
        if given[name] is not None:
            raise ValueError(f"cluster.{name}: of a cluster that is calibrated it is measured")
    return None


def measured_cluster(asked: _Asked) -> Cluster:
    """The cluster that servers are, or were when the run whose episodes a folder keeps began."""
    servers, folder = asked.servers, asked.settings.output_dir
    if not asked.settings.overwrite and (folder / SETTINGS).exists():
        with suppress(FileNotFoundError):
            return load_cluster(folder / CLUSTER)
    tell(f"measuring {servers.urls[0]} first, about 30 s (cluster=... goes without)")
    executors = asked.settings.cluster["regular_executors"]
    with reading(f"measuring {servers.urls[0]}"):
        return measured(servers, asked.made["workload"], executors)


def begin(folder: Path, settings: dict[str, Any], cluster: Cluster | None, anew: bool) -> None:
    """Make a folder one for the episodes of a run, those that are there being of the same.

    Parameters
    ----------
    settings
        Of the run.
    cluster
        What was measured, if it was.
    anew
        Remove episodes that are there.
    """
    if anew:
        forget(folder / LOGS)
        (folder / CLUSTER).unlink(missing_ok=True)
    if cluster is not None:
        write_cluster(cluster, folder / CLUSTER)
    (folder / LOGS).mkdir(exist_ok=True)
    with replacing(folder / SETTINGS) as part:
        part.write_text(json.dumps({"settings": settings}, indent=2) + "\n", encoding="utf-8")


def tell(line: str) -> None:
    """A line on stderr."""
    print(f"evaluate.py: {printable(line)}", file=sys.stderr, flush=True)


@contextmanager
def _one_line() -> Iterator[None]:
    """What is not right in settings is an InputError; of servers it names the option."""
    try:
        yield
    except (InputError, ValueError, OSError) as error:
        line = one_line(error)
        of_servers = line.partition(":")[0] in ServerSettings.model_fields
        raise InputError(f"testbed.{line}" if of_servers else line) from error

"""Clusters built of LLM engines and regular executors, by name or from a file.

The presets are YAML files beside this module (``presets/``). Each states where its coefficients
come from, how well they fit and in which range. All but two are fitted to one collection of
operator times (aiconfigurator): it alone covers every GPU offered here, so that presets can be
compared with each other, and for 70B models the formula of :mod:`llmsched_gym.cluster.latency`
fits it better than Vidur's times (mean error of a decode iteration 1.8 to 2.4 % instead of 3.1 to
5.8 %). Sums of operator times have no engine overhead in them; the two presets ``*_measured`` have
that of vLLM in 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

import yaml

from llmsched_gym.cluster.latency import ClusterError, LatencyProfile, check_count
from llmsched_gym.cluster.serving import SERVING
from llmsched_gym.errors import nearest
from llmsched_gym.workload.inputs import fault_of_name, given_path, other_than_file, shown

PRESETS = Path(__file__).parent / "presets"
CLUSTERS = tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))
SIZES = {"engines": 10_000, "max_batch": 10_000, "regular_executors": 1_000_000}  # at most
MOST_SLOTS = 1_000_000  # of all engines


@dataclass(frozen=True)
class Cluster:
    """LLM engines of one kind, and regular executors.

    Parameters
    ----------
    name : of the cluster.
    latency : the profile of each engine.
    engines : number of LLM engines, 1 to 10,000, default 4.
    max_batch : slots per engine, 1 to 10,000, default 8; no more than 1,000,000 slots in all.
    regular_executors : number of regular executors, 1 to 1,000,000, default 16.

    Raises
    ------
    ClusterError
        if a size is not a whole number in its range, or the token budget of the engines leaves
        nothing for prompts beside a full batch.
    """

    name: str
    latency: LatencyProfile
    engines: int = 4
    max_batch: int = 8
    regular_executors: int = 16

    def __post_init__(self) -> None:
        for name, most in SIZES.items():
            check_count(name, getattr(self, name), 1, most)
        if self.llm_slots > MOST_SLOTS:
            raise ClusterError(
                f"engines, max_batch: {self.llm_slots} slots are more than {MOST_SLOTS}"
            )
        budget = self.latency.token_budget
        if budget is not None and budget <= self.max_batch:
            raise ClusterError(
                f"token_budget: {budget} tokens an iteration leave none for prompts beside "
                f"max_batch={self.max_batch} decoding sequences"
            )

    @property
    def llm_slots(self) -> int:
        """Slots of all engines."""
        return self.engines * self.max_batch


def load_cluster(
    cluster: str | PathLike[str] | Cluster,
    *,
    serving: str | None = None,
    token_budget: int | None = None,
    **sizes: int,
) -> Cluster:
    """The cluster of a name in ``CLUSTERS``, of a YAML file or as given, perhaps changed.

    Parameters
    ----------
    cluster : str, path or Cluster
        The name of a preset, the path of a ``.yaml`` file laid out like the presets, or a cluster.
    serving : str or None
        A name from ``SERVING``, whose traits replace those of the cluster's engines.
    token_budget : int or None
        Tokens of a mixed iteration at most, in place of the engines' own.
    **sizes : int
        ``engines``, ``max_batch`` or ``regular_executors``, to replace the cluster's own.

    Raises
    ------
    ClusterError
        for an unknown name, an unknown or impossible size, traits that do not go together, or a
        malformed file (``file: field: what``).
    FileNotFoundError
        for a path where no file is.
    """
    for name in sizes:
        if name not in SIZES:
            valid = ", ".join((*SIZES, "serving", "token_budget"))
            raise ClusterError(
                f"cluster: unknown option {name!r}{nearest(name, SIZES)}; valid: {valid}"
            )
    if not isinstance(cluster, Cluster):
        cluster = _read(_path(cluster))
    latency = _served(cluster.latency, serving, token_budget)
    return replace(cluster, latency=latency, **cast(dict[str, Any], sizes))


def _served(
    latency: LatencyProfile, serving: str | None, token_budget: int | None
) -> LatencyProfile:
    """A profile with the traits that are asked for."""
    if serving is not None:
        if serving not in SERVING:
            raise ClusterError(
                f"serving: unknown {shown(serving)}, choose from {', '.join(SERVING)}"
            )
        traits = SERVING[serving]
        latency = replace(
            latency,
            prefill=traits.prefill,
            token_budget=traits.token_budget,
            joins=traits.joins,
        )
    return latency if token_budget is None else replace(latency, token_budget=token_budget)


def _path(cluster: str | PathLike[str]) -> Path:
    if isinstance(cluster, str) and cluster in CLUSTERS:
        return PRESETS / f"{cluster}.yaml"
    if not isinstance(cluster, str | PathLike):
        raise ClusterError(f"cluster: {shown(cluster)} is neither a name nor a path nor a Cluster")
    path = given_path("cluster", cluster)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ClusterError(
            f"cluster: unknown name {str(cluster)!r}{nearest(cluster, CLUSTERS)}; "
            f"valid: {', '.join(CLUSTERS)}, or the path of a .yaml file"
        )
    try:
        kind = other_than_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"cluster: no such file: {path}") from None
    if kind:
        raise ClusterError(f"{path}: {kind}, not a file")
    return path


_FIELDS = ("name", "latency")
_LATENCY = ("decode_ms", "prefill_ms", "kv_capacity_tokens")
_TRAITS = ("prefill", "token_budget", "joins")


def _read(path: Path) -> Cluster:
    try:
        content = _section(_parse(path), "", _FIELDS, tuple(SIZES))
        latency = _section(content["latency"], "latency.", _LATENCY, (*_TRAITS, "source", "error"))
        decode = _section(latency["decode_ms"], "latency.decode_ms.", ("a", "c", "d"))
        prefill = _section(latency["prefill_ms"], "latency.prefill_ms.", ("p0", "e", "f", "g"))
        for name, value in (decode | prefill).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ClusterError(
                    f"{name}: {shown(value)} is not a number (YAML: 1.0e-3, not 1e-3)"
                )
        for name in ("source", "error"):
            if not isinstance(latency.get(name, {}), dict):
                raise ClusterError(f"latency.{name}: not a mapping")
        if fault_of_name(content["name"]):
            raise ClusterError(f"name: {shown(content['name'])} is not a name")
        profile = LatencyProfile(
            name=content["name"],
            **decode,
            **prefill,
            kv_capacity_tokens=latency["kv_capacity_tokens"],
            **{name: latency[name] for name in _TRAITS if name in latency},
            source=latency.get("source", {}),
            error=latency.get("error", {}),
        )
        sizes = {name: content[name] for name in SIZES if name in content}
        return Cluster(content["name"], profile, **sizes)
    except ClusterError as error:
        raise ClusterError(f"{path}: {' '.join(str(error).split())}") from None


def _parse(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ClusterError(f"line {line}: {error.problem}") from None
    except Exception as error:  # tags and scalars that yaml makes ValueError, IndexError, ... of
        raise ClusterError(f"YAML: {error}") from None


def _section(
    content: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ClusterError(f"{where.rstrip('.') or 'file'}: not a mapping")
    for name in content:
        if name not in required + optional:
            known = name if isinstance(name, str) and not fault_of_name(name) else shown(name)
            raise ClusterError(
                f"{where}{known}: unknown field; valid: {', '.join(required + optional)}"
            )
    for name in required:
        if name not in content:
            raise ClusterError(f"{where}{name}: missing")
    return content

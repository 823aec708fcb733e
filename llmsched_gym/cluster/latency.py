"""What an LLM engine costs: the latency profile of a GPU and a model, and clusters built of it.

One decode iteration with ``b`` sequences that hold ``kv`` tokens in total takes
``a + c b + d kv`` ms and gives each sequence one token. ``n`` prompt tokens that join an engine
together are prefilled in ``max(p0, e + f n + g n^2)`` ms; each sequence gets its first token of it.

The presets are YAML files beside this module (``presets/``). Each states where its coefficients
come from, how well they fit and in which range. All but two are fitted to one collection of
operator times (aiconfigurator): it alone covers every GPU offered here, so that presets can be
compared with each other, and for 70B models the formula above fits it better than Vidur's times
(mean error of a decode iteration 1.8 to 2.4 % instead of 3.1 to 5.8 %). Sums of operator times have
no engine overhead in them; the two presets ``*_measured`` have that of vLLM in 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from llmsched_gym.cluster.state import TICKS_PER_SECOND

TICKS_PER_MS = TICKS_PER_SECOND // 1000
PRESETS = Path(__file__).parent / "presets"
CLUSTERS = tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))
SIZES = ("engines", "max_batch", "regular_executors")


class ClusterError(ValueError):
    """A cluster that cannot be built; the message names the field, and the file if there is one."""


@dataclass(frozen=True)
class LatencyProfile:
    """How long an LLM engine takes, and how many tokens it holds.

    The simulator counts whole ticks of 1 ps: ``a``, ``c`` and ``d`` are rounded to ticks one by
    one, a prefill as a whole.

    Parameters
    ----------
    name : of the profile, e.g. ``a100_llama2_7b``.
    a : ms per decode iteration, above 0.
    c : ms per decode iteration and sequence.
    d : ms per decode iteration and token held.
    p0 : ms, the shortest prefill, above 0.
    e : ms per prefill.
    f : ms per prefill and prompt token.
    g : ms per prefill and prompt token squared.
    kv_capacity_tokens : tokens of KV cache of one engine.
    source : where the coefficients come from, and under which licence.
    error : how well they fit (``decode_mape_pct``, ``decode_max_pct``, ...) and in which range.

    Raises
    ------
    ClusterError
        if a coefficient is negative or not finite, ``a`` or ``p0`` is below one tick, or the
        capacity is not a whole number above 1.
    """

    name: str
    a: float
    c: float
    d: float
    p0: float
    e: float
    f: float
    g: float
    kv_capacity_tokens: int
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    error: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("a", "c", "d", "p0", "e", "f", "g"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ClusterError(f"{name}: {value} is not a time in ms")
        for name in ("a", "p0"):  # an iteration without length would never let time pass
            if getattr(self, name) * TICKS_PER_MS < 1:
                raise ClusterError(f"{name}: {getattr(self, name)} ms is below 1e-9 ms")
        _check_count("kv_capacity_tokens", self.kv_capacity_tokens, least=2)

    @property
    def decode_coefficients(self) -> tuple[int, int, int]:
        """``(a, c, d)`` in ticks."""
        return tuple(round(x * TICKS_PER_MS) for x in (self.a, self.c, self.d))  # type: ignore[return-value]

    @property
    def prefill_coefficients(self) -> tuple[float, float, float, float]:
        """``(p0, e, f, g)`` in ticks, not rounded."""
        return tuple(x * TICKS_PER_MS for x in (self.p0, self.e, self.f, self.g))  # type: ignore[return-value]

    def decode_ticks(self, batch: ArrayLike, kv: ArrayLike) -> NDArray[np.int64]:
        """Ticks of one decode iteration with ``batch`` sequences that hold ``kv`` tokens in all."""
        a, c, d = self.decode_coefficients
        return np.asarray(a + c * np.asarray(batch, np.int64) + d * np.asarray(kv, np.int64))

    def prefill_ticks(self, prompt: ArrayLike) -> NDArray[np.int64]:
        """Ticks to prefill ``prompt`` tokens together."""
        p0, e, f, g = self.prefill_coefficients
        n = np.asarray(prompt, np.float64)
        return np.floor(np.maximum(p0, e + f * n + g * n * n) + 0.5).astype(np.int64)

    def demand_ticks(self, prompt: ArrayLike, output: ArrayLike) -> NDArray[np.int64]:
        """Ticks that a lone task takes on an idle engine: its service demand.

        ``prefill(p) + sum_{i=1}^{o-1} l(1, p + i)``, since the prefill yields the first token.
        """
        a, c, d = self.decode_coefficients
        p, steps = np.asarray(prompt, np.int64), np.asarray(output, np.int64) - 1
        held = steps * p + steps * (steps + 1) // 2  # sum of p + i over the iterations
        return np.asarray(self.prefill_ticks(p) + steps * (a + c) + d * held)

    def slot_seconds(
        self, prompt: ArrayLike, output: ArrayLike, max_batch: int
    ) -> NDArray[np.float64]:
        """Slot-seconds that a task costs an engine that is always full.

        ``(o - 1) l(B, B (p + o / 2)) + B prefill(p)``: each of B alike sequences holds its prompt
        and on average half of its output, and a prefill blocks all B slots.
        """
        p, o = np.asarray(prompt, np.float64), np.asarray(output, np.float64)
        a, c, d = self.decode_coefficients
        iteration = a + c * max_batch + d * max_batch * (p + o / 2)
        return np.asarray(
            ((o - 1) * iteration + max_batch * self.prefill_ticks(p)) / TICKS_PER_SECOND
        )


@dataclass(frozen=True)
class Cluster:
    """LLM engines of one kind, and regular executors.

    Parameters
    ----------
    name : of the cluster.
    latency : the profile of each engine.
    engines : number of LLM engines, default 4.
    max_batch : slots per engine, default 8.
    regular_executors : number of regular executors, default 16.

    Raises
    ------
    ClusterError
        if a size is not a whole number above 0.
    """

    name: str
    latency: LatencyProfile
    engines: int = 4
    max_batch: int = 8
    regular_executors: int = 16

    def __post_init__(self) -> None:
        for name in SIZES:
            _check_count(name, getattr(self, name), least=1)

    @property
    def llm_slots(self) -> int:
        """Slots of all engines."""
        return self.engines * self.max_batch


def load_cluster(cluster: str | PathLike[str] | Cluster, **sizes: int) -> Cluster:
    """The cluster of a name in ``CLUSTERS``, of a YAML file or as given, perhaps resized.

    Parameters
    ----------
    cluster : str, path or Cluster
        The name of a preset, the path of a ``.yaml`` file laid out like the presets, or a cluster.
    **sizes : int
        ``engines``, ``max_batch`` or ``regular_executors``, to replace the cluster's own.

    Raises
    ------
    ClusterError
        for an unknown name, an unknown or impossible size, or a malformed file
        (``file: field: what``).
    FileNotFoundError
        for a path where no file is.
    """
    for name in sizes:
        if name not in SIZES:
            raise ClusterError(f"cluster: unknown option {name!r}; valid: {', '.join(SIZES)}")
    if not isinstance(cluster, Cluster):
        cluster = _read(_path(cluster))
    return replace(cluster, **cast(dict[str, Any], sizes))


def _path(cluster: str | PathLike[str]) -> Path:
    if cluster in CLUSTERS:
        return PRESETS / f"{cluster}.yaml"
    path = Path(cluster)
    if path.suffix not in (".yaml", ".yml"):
        raise ClusterError(
            f"cluster: unknown name {str(cluster)!r}; valid: {', '.join(CLUSTERS)}, "
            "or the path of a .yaml file"
        )
    if not path.is_file():
        raise FileNotFoundError(f"cluster: no such file: {path}")
    return path


_FILE = ("name", "latency")
_LATENCY = ("decode_ms", "prefill_ms", "kv_capacity_tokens")


def _read(path: Path) -> Cluster:
    try:
        content = _section(yaml.safe_load(path.read_text(encoding="utf-8")), "", _FILE, SIZES)
        latency = _section(content["latency"], "latency.", _LATENCY, ("source", "error"))
        decode = _section(latency["decode_ms"], "latency.decode_ms.", ("a", "c", "d"))
        prefill = _section(latency["prefill_ms"], "latency.prefill_ms.", ("p0", "e", "f", "g"))
        for name, value in (decode | prefill).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ClusterError(f"{name}: {value!r} is not a number (YAML: 1.0e-3, not 1e-3)")
        for name in ("source", "error"):
            if not isinstance(latency.get(name, {}), dict):
                raise ClusterError(f"latency.{name}: not a mapping")
        if not isinstance(content["name"], str) or not content["name"]:
            raise ClusterError(f"name: {content['name']!r} is not a name")
        profile = LatencyProfile(
            name=content["name"],
            **decode,
            **prefill,
            kv_capacity_tokens=latency["kv_capacity_tokens"],
            source=latency.get("source", {}),
            error=latency.get("error", {}),
        )
        sizes = {name: content[name] for name in SIZES if name in content}
        return Cluster(content["name"], profile, **sizes)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ClusterError(f"{path}: line {line}: {error.problem}") from None
    except (ClusterError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClusterError(f"{path}: {' '.join(str(error).split())}") from None


def _section(
    content: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ClusterError(f"{where.rstrip('.') or 'file'}: not a mapping")
    for name in content:
        if name not in required + optional:
            raise ClusterError(
                f"{where}{name}: unknown field; valid: {', '.join(required + optional)}"
            )
    for name in required:
        if name not in content:
            raise ClusterError(f"{where}{name}: missing")
    return content


def _check_count(name: str, value: object, least: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ClusterError(f"{name}: {value!r} is not a whole number of at least {least}")

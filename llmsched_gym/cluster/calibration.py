"""Fit the latency profile of an engine to measured times.

``python -m llmsched_gym.cluster.calibration table.csv -o mine.yaml`` reads measurements of one's
own and writes a cluster that ``evaluate.py cluster=mine.yaml`` plays; docs/calibration.md has an
example. :mod:`llmsched_gym.testbed.calibrate` measures a server first.

The fit is least squares of relative errors with outliers weighed down (Huber) and no coefficient
below zero. Such a fit comes out low where slow iterations are rarer but longer than fast ones, so
the coefficients are then scaled to make predicted and measured times agree in sum: it is the sum
of its iterations that a task takes.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

from llmsched_gym.cluster.latency import (
    JOINS,
    LARGEST_MS,
    MOST_KV_TOKENS,
    PREFILLS,
    ClusterError,
    LatencyProfile,
)
from llmsched_gym.cluster.preset import SIZES, Cluster
from llmsched_gym.errors import need, one_line
from llmsched_gym.files import replacing
from llmsched_gym.workload.inputs import fault_of_name, given_path, other_than_file

if TYPE_CHECKING:
    from rich.table import Table

    from llmsched_gym.plotting import Picture

FloatArray = NDArray[np.float64]
HUBER = 1.345  # standard deviations from which on a row is weighed down
FAR = 2.0  # a row that is off by this factor is left out of the sums
APART = 1.1  # from this factor on two batches, contexts or prompts differ
FOLDS = 20  # of them, where none of them differ
DIGITS = 6  # of a coefficient


@dataclass(frozen=True)
class Measurements:
    """Measured times of one engine.

    Parameters
    ----------
    batch : [decode iterations] sequences, 1 or more.
    kv : [decode iterations] tokens that these hold in all when the iteration starts.
    decode_ms : [decode iterations] ms that it took.
    tokens : [prefills] prompt tokens, 1 or more.
    prefill_ms : [prefills] ms that it took.

    Raises
    ------
    ClusterError
        if arrays of one kind differ in length, or a value is out of range.
    """

    batch: FloatArray
    kv: FloatArray
    decode_ms: FloatArray
    tokens: FloatArray
    prefill_ms: FloatArray

    def __post_init__(self) -> None:
        for names in (("batch", "kv", "decode_ms"), ("tokens", "prefill_ms")):
            arrays = [np.array(getattr(self, name), np.float64) for name in names]
            if any(one.shape != (len(arrays[0]),) for one in arrays):
                raise ClusterError(f"{', '.join(names)}: not lists of one length")
            for name, values in zip(names, arrays, strict=True):
                least, most, what = RANGES[name]
                if not ((values >= least) & (values <= most)).all():  # NaN is not
                    raise ClusterError(f"{name}: a value is not {what}, {least:g} to {most:g}")
                object.__setattr__(self, name, values)

    def __add__(self, other: Measurements) -> Measurements:
        """The rows of both."""
        return Measurements(
            *(np.concatenate([getattr(self, name), getattr(other, name)]) for name in RANGES)
        )


RANGES = {
    "batch": (1, 10**6, "a number of sequences"),
    "kv": (1, MOST_KV_TOKENS, "a number of tokens"),
    "decode_ms": (1e-6, LARGEST_MS, "a time in ms"),
    "tokens": (1, 10**8, "a number of tokens"),
    "prefill_ms": (1e-6, LARGEST_MS, "a time in ms"),
}

# --- The fit --------------------------------------------------------------------------------------


def fit_profile(
    measured: Measurements,
    *,
    name: str,
    kv_capacity_tokens: int | None = None,
    prefill: str = "exclusive",
    token_budget: int | None = None,
    joins: str = "at_boundary",
    source: Mapping[str, Any] | None = None,
) -> LatencyProfile:
    """The profile that fits measured times best.

    Parameters
    ----------
    measured : at least 3 decode iterations, of 2 batches and 2 contexts or more, and prefills of 2
        lengths or more.
    kv_capacity_tokens : of the engine; by default the most that it held in an iteration that was
        measured.
    name, prefill, token_budget, joins, source : of the profile, see :class:`LatencyProfile`.

    Returns
    -------
    LatencyProfile
        Its ``error`` says how well it fits: ``decode_mape_pct`` and ``prefill_mape_pct``, the mean
        relative error in %, ``*_max_pct`` the largest one, ``*_held_out_mape_pct`` that of rows
        which were left out of the fit (one batch after another, then one context after another; of
        prefills one length after another), where there are enough; and in which range.

    Raises
    ------
    ClusterError
        if the rows do not tell the coefficients apart, or a trait is impossible.
    """
    _check_enough(measured)
    a, c, d = _round(fit_decode(measured.batch, measured.kv, measured.decode_ms))
    p0, e, f, g = _round(_prefill(measured.tokens, measured.prefill_ms))
    if kv_capacity_tokens is None:
        kv_capacity_tokens = max(2, int(measured.kv.max()))
    return LatencyProfile(
        name,
        max(a, 1e-6),
        c,
        d,
        p0,
        e,
        f,
        g,
        kv_capacity_tokens,
        prefill=prefill,
        token_budget=token_budget,
        joins=joins,
        source=dict(source or {"data": "measured by the user"}),
        error=_errors(measured, (a, c, d), (p0, e, f, g)),
    )


def fit_decode(batch: FloatArray, kv: FloatArray, ms: FloatArray) -> FloatArray:
    """``(a, c, d)`` ms, as in :func:`fit_profile`, not rounded."""
    return _decode(_decode_columns(batch, kv), ms)


def _check_enough(measured: Measurements) -> None:
    """ClusterError, with what to measure, if rows do not tell the coefficients apart."""
    for kind, ms in (("decode", measured.decode_ms), ("prefill", measured.prefill_ms)):
        if not len(ms):
            raise ClusterError(f"{kind}: no row; measure some")
    batch, context = measured.batch, measured.kv / measured.batch
    if len(np.unique(batch)) < 2:
        raise ClusterError(
            f"decode: all rows have batch {batch[0]:g}, so that the time of an iteration cannot be "
            "told from that of a sequence; measure 2 batches or more"
        )
    if context.max() < APART * context.min():
        raise ClusterError(
            f"decode: all rows have about {context[0]:g} tokens a sequence, so that the time of a "
            "sequence cannot be told from that of a token; measure 2 contexts or more"
        )
    columns = _decode_columns(batch, measured.kv)
    if np.linalg.matrix_rank(columns / columns.max(axis=0), tol=1e-3) < 3:
        raise ClusterError(
            f"decode: {len(batch)} rows do not tell the times of an iteration, a sequence and a "
            "token apart; measure each of 2 batches or more at 2 contexts or more"
        )
    if len(np.unique(measured.tokens)) < 2:
        raise ClusterError(
            f"prefill: all rows have {measured.tokens[0]:g} tokens; measure 2 lengths or more"
        )


def _decode_columns(batch: FloatArray, kv: FloatArray) -> FloatArray:
    return np.stack([np.ones_like(batch), batch, kv], axis=1)


def _decode(columns: FloatArray, ms: FloatArray) -> FloatArray:
    """``(a, c, d)``."""
    found = _fit(columns, ms)
    return found * _scale(columns @ found, ms)


def _prefill(tokens: FloatArray, ms: FloatArray) -> FloatArray:
    """``(p0, e, f, g)``: of all ways to say which prompts take the least time, the best.

    It has a g only where that explains enough (by the Bayesian information criterion): one that
    comes from the noise of short prompts would grow with the square of longer ones.
    """
    line, loss_of_line = _best_floor(tokens, ms, 2)
    curve, loss = _best_floor(tokens, ms, 3)
    best = curve if loss < loss_of_line * len(ms) ** (-0.5 / len(ms)) else line
    return best * _scale(prefill_ms(best, tokens), ms)


def _best_floor(tokens: FloatArray, ms: FloatArray, terms: int) -> tuple[FloatArray, float]:
    """``(p0, e, f, g)`` with so many of the last three, and the mean relative error."""
    lengths = np.unique(tokens)
    most = max(0, len(lengths) - terms)
    best, least = np.zeros(4), np.inf
    for longest in (0.0, *lengths[:most]):  # the longest prompt that takes p0
        short = tokens <= longest
        columns = np.stack([tokens**power for power in range(terms)], axis=1)[~short]
        curve = np.zeros(3)
        curve[:terms] = _fit(columns, ms[~short])
        p0 = _fit(np.ones((short.sum(), 1)), ms[short])[0] if short.any() else curve.sum()
        tried = np.array([p0, *curve])
        loss = float(np.mean(_off(prefill_ms(tried, tokens), ms)))
        if loss < least * (1 - 1e-6):
            best, least = tried, loss
    return best, least


def prefill_ms(coefficients: ArrayLike, tokens: ArrayLike) -> FloatArray:
    """``max(p0, e + f n + g n^2)`` ms of prompts of n tokens."""
    p0, e, f, g = np.asarray(coefficients, np.float64)
    n = np.asarray(tokens, np.float64)
    return np.asarray(np.maximum(p0, e + f * n + g * n * n))


def _fit(columns: FloatArray, ms: FloatArray) -> FloatArray:
    """Coefficients of 0 or more that are best by the relative error, outliers weighed down.

    They are relative to the larger one of measured and predicted: a row that took hardly any time,
    by a bad clock, is an outlier like others.
    """
    size = columns.max(axis=0)
    size[size == 0] = 1.0
    root = np.ones_like(ms) / np.median(ms)
    found = np.zeros(columns.shape[1])
    for _ in range(30):
        before = found
        found = nnls(columns / size * root[:, None], root * ms)[0] / size
        if np.allclose(found, before, rtol=1e-6):
            break
        predicted = columns @ found
        off = _off(predicted, ms)
        usual = max(1.4826 * float(np.median(off)), 1e-3)
        weight = np.minimum(1.0, HUBER * usual / np.maximum(off, 1e-12))
        root = np.sqrt(weight) / np.maximum(predicted, ms)
    return found


def _off(predicted: FloatArray, ms: FloatArray) -> FloatArray:
    """By how much times differ, relative to the larger one: 0 to 1."""
    return np.asarray(np.abs(predicted - ms) / np.maximum(predicted, ms))


def _scale(predicted: FloatArray, ms: FloatArray) -> float:
    """What makes predicted times sum up to the measured ones, but for rows that are far off."""
    ratio = predicted / ms
    near = (ratio > 1 / FAR) & (ratio < FAR)
    return float(ms[near].sum() / predicted[near].sum()) if near.any() else 1.0


def _round(coefficients: FloatArray) -> list[float]:
    return [float(f"{one:.{DIGITS}g}") for one in coefficients]


# --- How well it fits -----------------------------------------------------------------------------


def _errors(
    measured: Measurements, decode: Sequence[float], prefill: Sequence[float]
) -> dict[str, Any]:
    """``LatencyProfile.error``."""
    batch, kv, tokens = measured.batch, measured.kv, measured.tokens
    columns, context = _decode_columns(batch, kv), kv / batch
    found = _statistics("decode", columns @ np.array(decode), measured.decode_ms)
    held_out = [_held_out_decode(columns, measured.decode_ms, by) for by in (batch, context)]
    found |= _held_out_mape("decode", np.concatenate(held_out))
    found |= {"decode_batch": _range(batch), "decode_context_tokens": _range(context)}
    found |= _statistics("prefill", prefill_ms(prefill, tokens), measured.prefill_ms)
    found |= _held_out_mape("prefill", _held_out_prefill(tokens, measured.prefill_ms))
    return found | {"prefill_tokens": _range(tokens)}


def _statistics(kind: str, predicted: FloatArray, ms: FloatArray) -> dict[str, Any]:
    off = np.abs(predicted - ms)
    return {
        f"{kind}_mape_pct": _percent(off / ms, np.mean),
        f"{kind}_max_pct": _percent(off / ms, np.max),
        f"{kind}_max_ms": float(f"{off.max():.{DIGITS}g}"),
        f"{kind}_points": len(ms),
    }


def _held_out_mape(kind: str, off: FloatArray) -> dict[str, float]:
    return {f"{kind}_held_out_mape_pct": _percent(off, np.mean)} if len(off) else {}


def _percent(off: FloatArray, of: Any) -> float:
    return float(f"{100 * of(off):.{DIGITS}g}")


def _range(values: FloatArray) -> list[int]:
    return [round(float(values.min())), round(float(values.max()))]


def _held_out_decode(columns: FloatArray, ms: FloatArray, by: FloatArray) -> FloatArray:
    """Relative errors of rows that the fit has not seen, one batch or context after another."""
    off = []
    for out in _folds(by):
        kept = columns[~out]
        if np.linalg.matrix_rank(kept / columns.max(axis=0), tol=1e-3) == 3:
            off.append(np.abs(columns[out] @ _decode(kept, ms[~out]) / ms[out] - 1))
    return np.concatenate(off) if off else np.zeros(0)


def _held_out_prefill(tokens: FloatArray, ms: FloatArray) -> FloatArray:
    """Relative errors of rows that the fit has not seen, one length after another."""
    off = []
    for out in _folds(tokens):
        if len(np.unique(tokens[~out])) >= 3:
            found = _prefill(tokens[~out], ms[~out])
            off.append(np.abs(prefill_ms(found, tokens[out]) / ms[out] - 1))
    return np.concatenate(off) if off else np.zeros(0)


def _folds(by: FloatArray) -> Iterator[NDArray[np.bool_]]:
    """Rows of about equal values; of neighbouring ones where all are next to each other."""
    values = np.unique(by)
    groups = np.split(values, np.flatnonzero(values[1:] > APART * values[:-1]) + 1)
    if len(groups) == 1:
        groups = np.array_split(values, min(FOLDS, len(values)))
    for some in groups:
        yield (by >= some[0]) & (by <= some[-1])


# --- Files ----------------------------------------------------------------------------------------


def read_measurements(path: str | PathLike[str]) -> Measurements:
    """Measurements of a CSV file whose first row names its columns.

    ``kind`` is decode or prefill, ``ms`` what it took. A decode iteration has a ``batch`` and
    either a ``context``, the tokens that each of its sequences holds on average, or ``kv``, those
    that all hold; a prefill has ``tokens``. Other columns, and other cells of a row, are not looked
    at.

    Raises
    ------
    ClusterError
        ``file:line:column: what is wrong``.
    FileNotFoundError
        if there is no such file.
    """
    path = given_path("table", path)
    if kind := other_than_file(path):
        raise ClusterError(f"{path}: {kind}, not a CSV file")
    rows: dict[str, list[list[float]]] = {"decode": [], "prefill": []}
    for line, cells in _rows(path):
        kind = cells["kind"].lower()
        if kind not in rows:
            raise ClusterError(f"{path}:{line}:kind: {kind!r} is neither decode nor prefill")
        try:
            rows[kind].append(_decode_row(cells) if kind == "decode" else _prefill_row(cells))
        except ClusterError as error:
            raise ClusterError(f"{path}:{line}:{error}") from None
    decode, prefill = (np.array(rows[kind], np.float64) for kind in rows)
    return Measurements(*decode.reshape(-1, 3).T, *prefill.reshape(-1, 2).T)


def _decode_row(cells: Mapping[str, str]) -> list[float]:
    batch = _number(cells, "batch", "batch")
    ms = _number(cells, "ms", "decode_ms")
    if cells.get("kv"):
        return [batch, _number(cells, "kv", "kv"), ms]
    return [batch, batch * _number(cells, "context", "kv"), ms]


def _prefill_row(cells: Mapping[str, str]) -> list[float]:
    return [_number(cells, "tokens", "tokens"), _number(cells, "ms", "prefill_ms")]


def _number(cells: Mapping[str, str], column: str, what: str) -> float:
    least, most, meaning = RANGES[what]
    text = cells.get(column, "")
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not least <= value <= most:
        raise ClusterError(f"{column}: {text!r} is not {meaning}, {least:g} to {most:g}")
    return value


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with their line numbers, each a cell by the name of its column."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, strict=True)
        try:
            names = [name.strip().lower() for name in next(rows, [])]
            for name in ("kind", "ms"):
                if name not in names:
                    raise ClusterError(
                        f"{path}:1:{name}: no such column; valid: kind, batch, context or kv, "
                        "tokens, ms"
                    )
            for row in filter(None, rows):
                if len(row) != len(names):
                    raise ClusterError(
                        f"{path}:{rows.line_num}:{min(len(row), len(names)) + 1}: {len(row)} cells "
                        f"under {len(names)} names"
                    )
                yield (
                    rows.line_num,
                    dict(zip(names, (cell.strip() for cell in row), strict=True)),
                )
        except UnicodeDecodeError:
            raise ClusterError(f"{path}: not UTF-8") from None
        except csv.Error as error:
            raise ClusterError(f"{path}:{rows.line_num}: {error}") from None


class _Line(dict[str, Any]):
    """A mapping that is written in one line."""


class _Layout(yaml.SafeDumper):
    """YAML as the presets are laid out."""


def _in_one_line(dumper: yaml.SafeDumper, value: Any) -> yaml.Node:
    if isinstance(value, Mapping):
        return dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Layout.add_representer(_Line, _in_one_line)
_Layout.add_representer(list, _in_one_line)


def write_cluster(cluster: Cluster, path: str | PathLike[str]) -> None:
    """Write a cluster as YAML, laid out like the presets: :func:`load_cluster` reads the same.

    Raises
    ------
    OSError
        if it cannot be written; nothing is left of it then.
    """
    profile = cluster.latency
    latency: dict[str, Any] = {
        "decode_ms": _Line({name: float(getattr(profile, name)) for name in "acd"}),
        "prefill_ms": _Line({n: float(getattr(profile, n)) for n in ("p0", "e", "f", "g")}),
        "kv_capacity_tokens": int(profile.kv_capacity_tokens),
        "prefill": profile.prefill,
        "token_budget": profile.token_budget,
        "joins": profile.joins,
        "source": dict(profile.source),
        "error": dict(profile.error),
    }
    latency = {name: value for name, value in latency.items() if value not in (None, {})}
    content = {"name": cluster.name} | {name: getattr(cluster, name) for name in SIZES}
    text = yaml.dump(content | {"latency": latency}, Dumper=_Layout, sort_keys=False, width=10_000)
    with replacing(Path(path)) as part:
        part.write_text(text, encoding="utf-8")


# --- What people look at --------------------------------------------------------------------------


def error_table(profile: LatencyProfile) -> Table:
    """How well a profile fits, as a table for the terminal."""
    from rich.table import Table

    coefficients = {
        "decode": f"{profile.a:g} + {profile.c:g} b + {profile.d:g} kv",
        "prefill": f"max({profile.p0:g}, {profile.e:g} + {profile.f:g} n + {profile.g:g} n²)",
    }
    table = Table(title=f"{profile.name}: relative errors in %")
    table.add_column("")
    table.add_column("ms")
    for heading in ("rows", "mean", "largest", "held out, mean"):
        table.add_column(heading, justify="right")
    for kind, formula in coefficients.items():
        found = [
            profile.error.get(f"{kind}_{what}_pct") for what in ("mape", "max", "held_out_mape")
        ]
        shown = ["-" if value is None else f"{value:.1f}" for value in found]
        table.add_row(kind, formula, str(profile.error.get(f"{kind}_points", "-")), *shown)
    return table


def fit_picture(profile: LatencyProfile, measured: Measurements) -> Picture:
    """Measured times and the lines of the profile: decode iterations at left, prefills at right."""
    from llmsched_gym.plotting import COLOURS, new_picture

    picture = new_picture(f"{profile.name}: measured times and the fitted profile", 9.0, 3.6)
    decode, prefill = picture.subplots(1, 2)
    batches = np.unique(measured.batch)
    for number, some in enumerate(np.array_split(batches, min(6, len(batches)))):
        rows = np.isin(measured.batch, some)
        label = f"b = {some[0]:g}" if len(some) == 1 else f"b = {some[0]:g} to {some[-1]:g}"
        kv, colour = np.sort(measured.kv[rows]), COLOURS[number % len(COLOURS)]
        decode.plot(measured.kv[rows], measured.decode_ms[rows], "o", color=colour, markersize=4)
        ms = profile.a + profile.c * some.mean() + profile.d * kv
        decode.plot(kv, ms, color=colour, linewidth=1.2, label=label)
    decode.legend(fontsize="small", frameon=False)
    decode.set(xlabel="tokens held by all sequences (kv)", ylabel="ms of a decode iteration")
    n = np.linspace(measured.tokens.min(), measured.tokens.max(), 200)
    coefficients = (profile.p0, profile.e, profile.f, profile.g)
    prefill.plot(measured.tokens, measured.prefill_ms, "o", color=COLOURS[0], markersize=4)
    prefill.plot(n, prefill_ms(coefficients, n), color=COLOURS[0], linewidth=1.2)
    prefill.set(xlabel="prompt tokens (n)", ylabel="ms of a prefill")
    for axes in (decode, prefill):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    return picture


# --- The command ----------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """The options of what is written: ``-o``, ``--name`` and the rest that is not measured."""
    parser.add_argument("-o", "--output", type=Path, required=True, help="the YAML file to write")
    parser.add_argument("--name", help="of the profile (default: that of the file)")
    parser.add_argument(
        "--kv-capacity-tokens",
        type=int,
        metavar="N",
        help="tokens that the engine can hold (default: the most it held when measured)",
    )
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the fit there")


def checked_output(output: Path, name: str | None) -> str:
    """The name of what is written to a file, by default the file's own.

    Raises
    ------
    ClusterError
        if no cluster can be read from there, or nothing can have that name.
    """
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise ClusterError(f"output: {output} does not end with .yaml")
    if not output.absolute().parent.is_dir():
        raise ClusterError(f"output: no such folder: {output.absolute().parent}")
    name = output.stem if name is None else name
    if fault := fault_of_name(name):
        raise ClusterError(f"name: {fault}")
    return name


def write_outputs(
    cluster: Cluster, measured: Measurements, output: Path, figure: Path | None
) -> None:
    """Write the YAML file and the figure, and print how well the profile fits.

    Raises
    ------
    OSError
        if one cannot be written; neither is then.
    """
    from rich.console import Console

    if figure is None:
        write_cluster(cluster, output)
    else:
        with replacing(figure) as part:
            fit_picture(cluster.latency, measured).savefig(part, format="png")
            write_cluster(cluster, output)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(error_table(cluster.latency))
    console.print(f"python evaluate.py cluster={output}", highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 with one line on standard error and nothing written."""
    parser = Parser("calibration", description="Fit the latency profile of an engine to a table.")
    parser.add_argument(
        "table", type=Path, help="CSV: kind (decode, prefill), batch, context or kv, tokens, ms"
    )
    add_output_options(parser)
    parser.add_argument("--prefill", choices=PREFILLS, default="exclusive")
    parser.add_argument("--token-budget", type=int, help="tokens of a mixed iteration at most")
    parser.add_argument("--joins", choices=JOINS, default="at_boundary")
    options = parser.parse_args(arguments)
    try:
        need("commands", "calibrations", "rich", "matplotlib")
        name = checked_output(options.output, options.name)
        measured = read_measurements(options.table)
        profile = fit_profile(
            measured,
            name=name,
            kv_capacity_tokens=options.kv_capacity_tokens,
            prefill=options.prefill,
            token_budget=options.token_budget,
            joins=options.joins,
            source={"data": f"measured by the user: {options.table.name}"},
        )
        write_outputs(Cluster(name, profile), measured, options.output, options.figure)
    except (ImportError, OSError, ValueError) as error:
        print(f"calibration: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

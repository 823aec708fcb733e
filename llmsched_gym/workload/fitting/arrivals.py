"""The process of bursts and pauses fitted to recorded arrivals, against others on unseen halves.

A scheduler feels how many jobs arrive within the time that a few jobs take. So the process is
fitted to the index of dispersion (variance to mean) of counts over spans, not by likelihood, which
a record of many short gaps and few long pauses gives to those who describe its milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize, stats

from llmsched_gym.plotting import BLACK, COLOURS, new_picture
from llmsched_gym.workload.arrivals import FloatArray, InterruptedPoisson, Poisson, Recorded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RECORD = Path("arrivals/azure23_code.csv")
SPANS_S = (0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0)
RESOLUTION_S = 1e-3  # of likelihoods: below it, the record tells more of its logger than of jobs
DRAWN, EPISODES, SEED = 400_000, 200, 2025
BINS_S = 10.0  # of the picture


class Renewal(NamedTuple):
    """Independent times between arrivals of one distribution."""

    survival: Callable[[FloatArray], FloatArray]  # share of gaps above so many seconds
    draw: Callable[[np.random.Generator, int], FloatArray]  # so many gaps, seconds


def read(shared: Path) -> FloatArray:
    """The recorded arrivals, seconds since the first.

    Raises
    ------
    FileNotFoundError, ValueError
        if they cannot be read; the message names the file (and line).
    """
    record = Recorded.from_csv(shared / RECORD)
    times = record.at(np.arange(len(record)))
    return times - times[0]


def dispersion(times: FloatArray, span_s: float) -> float:
    """Variance to mean of the counts in successive whole spans; ``times`` from 0."""
    counts, _ = np.histogram(times, np.arange(0, times[-1], span_s))
    return float(counts.var(ddof=1) / counts.mean())


def fit(times: FloatArray) -> InterruptedPoisson:
    """Least squares of the logarithms of the dispersion over ``SPANS_S``."""
    jobs = np.array(SPANS_S) * _rate(times)
    known = np.array([dispersion(times, span) for span in SPANS_S])

    def process(logits: FloatArray) -> InterruptedPoisson:
        pause, quiet = 1 / (1 + np.exp(-logits))
        return InterruptedPoisson(1 / pause, quiet)

    def errors(logits: FloatArray) -> FloatArray:
        return np.asarray(np.log(process(logits).dispersion(jobs) / known))

    return process(optimize.least_squares(errors, [-5.0, 1.0]).x)


# --- Alternatives, on the half of the record that they have not seen ------------------------------


def exponential(times: FloatArray) -> Renewal:
    """A Poisson process of the rate."""
    mean = 1 / _rate(times)
    return Renewal(lambda x: np.exp(-x / mean), lambda rng, count: rng.exponential(mean, count))


def likeliest(family: stats.rv_continuous) -> Callable[[FloatArray], Renewal]:
    """The likeliest of a family with one shape and a scale."""

    def fitted(times: FloatArray) -> Renewal:
        gaps = np.diff(times)

        def loss(logs: FloatArray) -> float:
            shape, scale = np.exp(logs)
            survival = Renewal(lambda x: family.sf(x, shape, scale=scale), _never)
            return -log_likelihood(survival, gaps)

        starts = [(-1.0, math.log(gaps.mean()) + by) for by in (-2.0, 0.0)]
        best = min((optimize.minimize(loss, s, method="Nelder-Mead") for s in starts), key=_value)
        law = family(math.exp(best.x[0]), scale=math.exp(best.x[1]))
        return Renewal(law.sf, lambda rng, count: law.rvs(count, random_state=rng))

    return fitted


def hyperexponential(phases: int) -> Callable[[FloatArray], Renewal]:
    """The likeliest mixture of so many exponentials, by expectation and maximisation."""

    def fitted(times: FloatArray) -> Renewal:
        gaps = np.diff(times) + RESOLUTION_S / 4  # none is zero
        means = np.quantile(gaps, (np.arange(phases) + 1) / phases)
        weights = np.full(phases, 1 / phases)
        for _ in range(400):
            density = weights / means * np.exp(-gaps[:, None] / means)
            share = density / density.sum(axis=1, keepdims=True)
            weights, means = share.mean(axis=0), share.T @ gaps / share.sum(axis=0)
        return _mixture(weights, means)

    return fitted


def interrupted(times: FloatArray) -> Renewal:
    """The process that :func:`fit` gives, at the rate of the record."""
    process, mean = fit(times), 1 / _rate(times)
    p, q = 1 / process.jobs_per_burst, process.quiet
    return _mixture(np.array([1 - p, p]), mean * np.array([(1 - q) / (1 - p), q / p]))


def log_likelihood(process: Renewal, gaps: FloatArray) -> float:
    """Of the gaps, each known to ``RESOLUTION_S``; nats, in all."""
    below = process.survival(np.maximum(gaps - RESOLUTION_S / 2, 0.0))
    above = process.survival(gaps + RESOLUTION_S / 2)
    return float(np.log(np.maximum(below - above, 1e-300)).sum())


def held_out_table(times: FloatArray) -> str:
    """Markdown: every process fitted to one half of the record and compared with the other."""
    half = len(times) // 2
    halves = times[:half], times[half:] - times[half]
    fits: dict[str, Callable[[FloatArray], Renewal]] = {
        "Poisson": exponential,
        "gamma": likeliest(stats.gamma),
        "Weibull": likeliest(stats.weibull_min),
        "log-normal": likeliest(stats.lognorm),
        "hyperexponential, 2 phases": hyperexponential(2),
        "hyperexponential, 3 phases": hyperexponential(3),
        "**interrupted Poisson**, fitted to dispersion": interrupted,
    }
    lines = [
        "| times between arrivals | CV | dispersion over 60 s | off by a factor of | nats a gap |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, by in fits.items():
        nats, off = zip(*(_judge(by(a), b) for a, b in (halves, halves[::-1])), strict=True)
        drawn = np.cumsum(by(times).draw(np.random.default_rng(SEED), DRAWN))
        far = f"{math.exp(np.mean(off)):.1f} | {np.mean(nats):.2f}"
        lines.append(f"| {name} | {_variation(drawn)} | {far} |")
    apart = math.exp(_distance(_dispersions(halves[0]), _dispersions(halves[1])))
    lines.append(f"| the record, half against half | {_variation(times)} | {apart:.1f} | |")
    return "\n".join(lines) + "\n"


def _variation(times: FloatArray) -> str:
    gaps = np.diff(times)
    return f"{gaps.std() / gaps.mean():.1f} | {dispersion(times, 60.0):.0f}"


def _judge(process: Renewal, times: FloatArray) -> tuple[float, float]:
    """Mean log-likelihood of the gaps of ``times``, and :func:`_distance` of dispersions."""
    gaps = np.diff(times)
    drawn = np.cumsum(process.draw(np.random.default_rng(SEED), DRAWN))
    nats = log_likelihood(process, gaps) / len(gaps)
    return nats, _distance(_dispersions(drawn), _dispersions(times))


def _dispersions(times: FloatArray) -> FloatArray:
    return np.array([dispersion(times, span) for span in SPANS_S])


def _distance(one: FloatArray, other: FloatArray) -> float:
    return float(np.abs(np.log(one / other)).mean())


def _mixture(weights: FloatArray, means: FloatArray) -> Renewal:
    return Renewal(
        lambda x: np.exp(-np.asarray(x)[:, None] / means) @ weights,
        lambda rng, count: rng.exponential(means[rng.choice(len(means), count, p=weights)]),
    )


def _never(rng: np.random.Generator, count: int) -> FloatArray:
    raise AssertionError("drawn while it is fitted")


def _value(found: optimize.OptimizeResult) -> float:
    return float(found.fun)


def _rate(times: FloatArray) -> float:
    return float((len(times) - 1) / (times[-1] - times[0]))


# --- The fit, as a table and a picture ------------------------------------------------------------


def fit_table(times: FloatArray) -> str:
    """Markdown: dispersion over spans, in the record and in drawn records of the same length."""
    process = fit(times)
    quantiles = np.quantile(_drawn_dispersions(process, times), (0.05, 0.95), axis=0)
    poisson = InterruptedPoisson.__name__, Poisson.__name__
    lines = [
        f"`{poisson[0]}({process.jobs_per_burst:.0f}, {process.quiet:.3f})`, fitted:",
        "",
        "| span, s | jobs in it | record | fitted | 5 to 95 % of records as long |",
        "|---:|---:|---:|---:|---:|",
    ]
    for span, low, high in zip(SPANS_S, *quantiles, strict=True):
        jobs = span * _rate(times)
        row = f"{dispersion(times, span):.1f} | {process.dispersion(jobs):.1f}"
        lines.append(f"| {span:g} | {jobs:.1f} | {row} | {low:.1f} to {high:.1f} |")
    return "\n".join(lines) + "\n"


def picture(times: FloatArray) -> Figure:
    """Counts over time and their dispersion: the record, the fitted process and Poisson."""
    process, rate = fit(times), _rate(times)
    rng = np.random.default_rng(SEED)
    rows = {
        "record": (times, BLACK),
        "interrupted Poisson": (process.draw(rng, len(times), rate), COLOURS[0]),
        "Poisson": (Poisson().draw(rng, len(times), rate), COLOURS[1]),
    }
    figure = new_picture("Arrivals of the Azure code trace (2023) and of two processes", 10, 5)
    panels = figure.subplot_mosaic([[name, "dispersion"] for name in rows], width_ratios=(2, 1))
    for name, (drawn, colour) in rows.items():
        axes = panels[name]
        counts, edges = np.histogram(drawn, np.arange(0, times[-1], BINS_S))
        axes.stairs(counts, edges / 60, fill=True, color=colour)
        axes.set_ylim(0, 350)
        axes.set_ylabel(f"{name}\njobs in {BINS_S:g} s")
    axes.set_xlabel("time, min")
    _draw_dispersion(panels["dispersion"], process, times)
    return figure


def _draw_dispersion(axes: Axes, process: InterruptedPoisson, times: FloatArray) -> None:
    spans = np.geomspace(SPANS_S[0] / 3, SPANS_S[-1], 100)
    low, high = np.quantile(_drawn_dispersions(process, times), (0.05, 0.95), axis=0)
    axes.fill_between(SPANS_S, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(spans, process.dispersion(spans * _rate(times)), color=COLOURS[0])
    axes.plot(SPANS_S, _dispersions(times), "o", color=BLACK)
    axes.axhline(1, color=COLOURS[1])
    axes.loglog()
    for axis, ticks in ((axes.xaxis, (0.1, 1, 10, 100)), (axes.yaxis, (1, 10, 100))):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("span, s")
    axes.set_ylabel("variance / mean of the jobs in a span")
    axes.grid(color="0.9")


def _drawn_dispersions(process: InterruptedPoisson, times: FloatArray) -> FloatArray:
    """[EPISODES, spans]: of drawn records with as many jobs."""
    rng = np.random.default_rng(SEED)
    drawn = (process.draw(rng, len(times), _rate(times)) for _ in range(EPISODES))
    return np.array([_dispersions(record) for record in drawn])

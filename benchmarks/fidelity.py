"""How well the simulator predicts a real LLM server: the same episodes on both.

    python benchmarks/fidelity.py [--server llama|fake|http://...] [--size 100M] [--slots 4]
        [--workloads planning chain_like] [--policies fcfs sjf llmsched_priced resource_srtf]
        [--episodes 3] [--jobs 60] [--load 2] [--tool-times 1] [--seed 0] [--quick]
        [-o outputs/fidelity.json] [--figure fidelity.png] [--docs docs]

The server is calibrated, plays the episodes, all policies an episode before the next, and is
calibrated again. The profile that is fitted to both calibrations together, so that half of what
drifted between them is in it, is then simulated on the same episodes, and predicts each gap between
two tokens of the real ones (teacher forcing). llama.cpp is measured on a clock that stands still
while its thread waits for a CPU; servers that are given by their URL on that of the machine.

Printed and written as JSON: mean and p95 JCT, real and simulated; the errors of teacher forcing;
how much the calibrations differ; the share of CPU time that was stolen; whether both rank the
policies alike, where the real difference is above 5 % and twice its spread; and which bars are met.
The exit code is 1 if one is missed. With ``--docs`` the tables of docs/fidelity.md and its picture
are written as well.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from decision_latency import machine
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from llmsched_gym.agents.base import make_policy
from llmsched_gym.cluster.calibration import fit_profile
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.evaluation.episodes import Episode, play
from llmsched_gym.files import replacing
from llmsched_gym.plotting import COLOURS, Picture, new_picture
from llmsched_gym.testbed.calibrate import Calibration, calibrate
from llmsched_gym.testbed.clock import Clock, StolenTimeClock
from llmsched_gym.testbed.environment import TestbedEnv
from llmsched_gym.testbed.fake import fake_server
from llmsched_gym.testbed.forcing import Forced, teacher_forced
from llmsched_gym.testbed.serve import serving
from llmsched_gym.testbed.servers import Servers
from llmsched_gym.workload.mixes import Workload, make_workload

# What makes jobs of large models small: factors of prompts, of outputs and of the times of tools.
SCALES = {"planning": (0.02, 0.15, 0.05), "chain_like": (0.02, 0.2, 0.1)}
TOOLS = 32  # regular executors: enough, so that jobs wait for the engine
POLICIES = ["fcfs", "sjf", "llmsched_priced", "resource_srtf"]
LONGEST = 256  # tokens of the longest prompt in a calibration; those of the jobs are shorter
FAKE = LatencyProfile("fake", 10.0, 0.5, 0.002, 12.0, 6.0, 0.1, 0.0, 10**6, "mixed", 2048, "late")
JCT_BAR = {"fake": 0.03}  # of the relative error of the mean JCT of a policy, else:
OTHER_JCT_BAR = 0.10
TASK_BAR, BIAS_BAR = 0.10, 0.05  # of teacher forcing: the median error, and that of the sum
CLEAR = 0.05  # difference of two policies that must be seen


@dataclass
class Server:
    """What is measured."""

    url: str
    clock: Clock | None


@dataclass
class Run:
    """The episodes of a workload, real and simulated, each a list by policy."""

    workload: str
    real: dict[str, list[Episode]] = field(default_factory=dict)
    simulated: dict[str, list[Episode]] = field(default_factory=dict)
    at_first: dict[str, list[Episode]] = field(default_factory=dict)  # by the first calibration
    rate: float = 0.0  # jobs/s


@dataclass
class Row:
    """A policy on a workload; times in seconds, errors relative to what is real."""

    workload: str
    policy: str
    requests: int
    real_mean_s: float
    simulated_mean_s: float
    mean_error: float
    mean_error_at_first: float
    real_p95_s: float
    simulated_p95_s: float
    p95_error: float
    task_error_median: float
    task_error_p90: float
    task_bias: float


@contextmanager
def served(options: argparse.Namespace) -> Iterator[Server]:
    """The server that the options name."""
    if options.server == "fake":
        with fake_server(FAKE, options.slots) as url:
            yield Server(url, None)
    elif options.server == "llama":
        with serving(options.size, options.slots) as llama:
            yield Server(llama.url, StolenTimeClock([llama.pid]))
    else:
        yield Server(options.server, None)


def workload_of(name: str, options: argparse.Namespace) -> Workload:
    prompt, output, duration = SCALES.get(name, SCALES["planning"])
    return make_workload(
        name,
        prompt_scale=prompt,
        output_scale=output,
        duration_scale=duration * options.tool_times,
    )


def measure(server: Server, options: argparse.Namespace) -> Calibration:
    """Calibrate the server."""
    begin = time.monotonic()
    found = calibrate(
        server.url,
        slots=options.slots,
        clock=server.clock,
        longest=LONGEST,
        repeats=1 if options.quick else 2,
        name=options.server,
        kv_capacity_tokens=10**6,
    )
    say(f"calibrated in {time.monotonic() - begin:.0f} s: {found.profile}")
    return found


def play_all(
    env: LLMSchedEnv, options: argparse.Namespace, loud: bool = False
) -> dict[str, list[Episode]]:
    """All episodes, those of one number one after the other, by policy."""
    played: dict[str, list[Episode]] = {name: [] for name in options.policies}
    for number in range(options.episodes):
        for name in options.policies:
            begin = time.monotonic()
            episode = play(env, make_policy(name), name, options.seed, number)
            if isinstance(env, TestbedEnv):
                episode = replace(episode, tasks=env.task_table(), log=env.log)
            played[name].append(episode)
            if loud:
                took, jct = time.monotonic() - begin, episode.jobs["jct_s"].mean()
                say(f"{name}, episode {number}: {took:.0f} s, mean JCT {jct:.3f} s")
    return played


def play_real(server: Server, profile: LatencyProfile, options: argparse.Namespace) -> list[Run]:
    """The episodes of all workloads on the server."""
    runs = []
    servers = Servers((server.url,), options.slots, clock=server.clock)
    for name in options.workloads:
        say(f"{name}:")
        cluster = Cluster("server", profile, regular_executors=TOOLS)
        env = TestbedEnv(
            servers, workload_of(name, options), cluster, num_jobs=options.jobs, load=options.load
        )
        runs.append(Run(name, play_all(env, options, loud=True), rate=env.rate))
        env.close()
    return runs


def simulate(run: Run, profile: LatencyProfile, options: argparse.Namespace) -> dict[str, Any]:
    """The same episodes simulated."""
    cluster = Cluster("simulated", profile, 1, options.slots, TOOLS)
    workload = workload_of(run.workload, options)
    env = LLMSchedEnv(workload, cluster, num_jobs=options.jobs, arrival_rate=run.rate)
    return play_all(env, options)


def forced(episodes: list[Episode], profile: LatencyProfile) -> Forced:
    """Teacher forcing of some episodes together."""
    found = [teacher_forced(one.log, profile) for one in episodes if one.log is not None]
    return Forced(*(np.concatenate([getattr(f, x) for f in found]) for x in asdict(found[0])))


def row(run: Run, policy: str, profile: LatencyProfile) -> Row:
    """What came of a policy on a workload."""
    times = run.real[policy], run.simulated[policy], run.at_first[policy]
    real, simulated, at_first = (mean_jct(episodes).mean() for episodes in times)
    p95 = [np.percentile(all_jct(episodes), 95) for episodes in times]
    tasks = forced(run.real[policy], profile)
    errors = np.abs(tasks.errors)
    return Row(
        run.workload,
        policy,
        sum(len(one.log.requests) for one in run.real[policy] if one.log is not None),
        real,
        simulated,
        simulated / real - 1,
        at_first / real - 1,
        float(p95[0]),
        float(p95[1]),
        float(p95[1] / p95[0]) - 1,
        float(np.median(errors)),
        float(np.percentile(errors, 90)),
        tasks.bias,
    )


def mean_jct(episodes: list[Episode]) -> NDArray[np.float64]:
    return np.array([one.jobs["jct_s"].mean() for one in episodes])


def all_jct(episodes: list[Episode]) -> NDArray[np.float64]:
    return np.concatenate([one.jobs["jct_s"] for one in episodes])


def rankings(run: Run) -> list[dict[str, Any]]:
    """Of each pair of policies, by how much the second is slower, and whether it must be seen.

    The spread is the standard deviation of the difference over episodes, 0 if there is only one.
    """
    found = []
    for one, other in itertools.combinations(run.real, 2):
        real, simulated = (
            mean_jct(played[other]) / mean_jct(played[one]) - 1
            for played in (run.real, run.simulated)
        )
        spread = float(real.std(ddof=1)) if len(real) > 1 else 0.0
        difference = float(real.mean())
        predicted = float(simulated.mean())
        pair: dict[str, Any] = {"workload": run.workload, "policies": [one, other]}
        pair |= {"real": difference, "spread": spread, "simulated": predicted}
        pair["clear"] = abs(difference) > max(CLEAR, 2 * spread)
        pair["alike"] = difference * predicted > 0
        found.append(pair)
    return found


def bars(rows: list[Row], pairs: list[dict[str, Any]], server: str) -> list[dict[str, Any]]:
    """What is to be reached, and what was."""
    worst = max(rows, key=lambda one: abs(one.mean_error))
    forcing = max(rows, key=lambda one: one.task_error_median)
    bias = max(rows, key=lambda one: abs(one.task_bias))
    found = [
        ("mean JCT", worst, worst.mean_error, JCT_BAR.get(server, OTHER_JCT_BAR)),
        ("teacher-forced tasks, median error", forcing, forcing.task_error_median, TASK_BAR),
        ("teacher-forced tasks, error of the sum", bias, bias.task_bias, BIAS_BAR),
    ]
    results: list[dict[str, Any]] = [
        {
            "bar": f"{what}: at most {bar:.0%}",
            "worst": f"{error:+.1%} ({of.workload}, {of.policy})",
            "met": bool(abs(error) <= bar),
        }
        for what, of, error, bar in found
    ]
    clear = [pair for pair in pairs if pair["clear"]]
    alike = sum(pair["alike"] for pair in clear)
    results.append(
        {
            "bar": "the same ranking wherever the real difference is clear",
            "worst": f"{alike} of {len(clear)} clear pairs, {len(pairs)} in all",
            "met": alike == len(clear),
        }
    )
    return results


# --- What is shown --------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(rows: list[Row]) -> Table:
    """The rows for the terminal."""
    shown = Table(title="JCT in seconds, and errors of the simulation in %")
    for name in ("workload", "policy"):
        shown.add_column(name)
    names = ("requests", "mean real", "sim.", "error", "p95 real", "sim.", "error")
    for name in (*names, "task error: median", "p90", "sum"):
        shown.add_column(name, justify="right")
    for one in rows:
        shown.add_row(
            one.workload,
            one.policy,
            str(one.requests),
            f"{one.real_mean_s:.3f}",
            f"{one.simulated_mean_s:.3f}",
            f"{100 * one.mean_error:+.1f}",
            f"{one.real_p95_s:.3f}",
            f"{one.simulated_p95_s:.3f}",
            f"{100 * one.p95_error:+.1f}",
            f"{100 * one.task_error_median:.1f}",
            f"{100 * one.task_error_p90:.1f}",
            f"{100 * one.task_bias:+.1f}",
        )
    return shown


def picture(runs: list[Run], profile: LatencyProfile, title: str) -> Picture:
    """JCT of each episode, and teacher-forced times of each task, predicted over real."""
    drawn = new_picture(title, 9.5, 4.6)
    jct, tasks = drawn.subplots(1, 2)
    for run, marker in zip(runs, itertools.cycle("os^Dv"), strict=False):
        for number, policy in enumerate(run.real):
            colour = COLOURS[number % len(COLOURS)]
            found = forced(run.real[policy], profile)
            real, simulated = mean_jct(run.real[policy]), mean_jct(run.simulated[policy])
            label = f"{run.workload}, {policy}"
            jct.plot(real, simulated, marker, color=colour, markersize=6, label=label)
            p95 = [
                [np.percentile(one.jobs["jct_s"], 95) for one in played[policy]]
                for played in (run.real, run.simulated)
            ]
            jct.plot(*p95, marker, color=colour, markersize=6, fillstyle="none")
            tasks.plot(found.measured_s, found.predicted_s, ".", color=colour, markersize=2.5)
    tasks.set(xscale="log", yscale="log")
    titles = (
        (jct, "JCT of an episode: mean, hollow p95"),
        (tasks, "First to last token of a task"),
    )
    for axes, what in titles:
        low, high = 0.0, max(axes.get_xlim()[1], axes.get_ylim()[1])
        if axes is tasks:
            low = min(axes.get_xlim()[0], axes.get_ylim()[0])
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator())
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
        ends = np.array([low, high])
        axes.plot(ends, ends, color="0.4", linewidth=0.8)
        axes.fill_between(ends, 0.9 * ends, 1.1 * ends, color="0.9", zorder=0, label="10 %")
        axes.set(xlim=ends, ylim=ends, xlabel="real, s", ylabel="predicted, s", aspect="equal")
        axes.set_title(what, fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    jct.legend(fontsize="x-small", frameon=False)
    return drawn


def report(
    options: argparse.Namespace, runs: list[Run], both: LatencyProfile, about: dict[str, Any]
) -> bool:
    """Print and write everything; whether all bars are met."""
    rows = [row(run, policy, both) for run in runs for policy in options.policies]
    pairs = [pair for run in runs for pair in rankings(run)]
    reached = bars(rows, pairs, options.server)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table(rows))
    for name, value in about.items():
        console.print(f"{name}: {value}", highlight=False)
    shown = Table(title="Bars")
    for name in ("bar", "worst", "met"):
        shown.add_column(name)
    for one in reached:
        shown.add_row(one["bar"], one["worst"], "met" if one["met"] else "missed")
    console.print(shown)
    contents = {"about": about, "profile": asdict(both), "rows": [asdict(one) for one in rows]}
    contents |= {"pairs": pairs, "bars": reached}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.output) as part:
        part.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    drawn = picture(runs, both, f"Real and predicted: {options.server}, {options.slots} slots")
    if options.figure is not None:
        with replacing(options.figure) as part:
            drawn.savefig(part, format="png")
    if options.docs is not None:
        with replacing(options.docs / "images" / f"fidelity_{options.server}.png") as part:
            drawn.savefig(part, format="png")
        text = markdown(rows, pairs, about, reached)
        write_between(options.docs / "fidelity.md", options.server, text)
    return all(one["met"] for one in reached)


def markdown(
    rows: list[Row],
    pairs: list[dict[str, Any]],
    about: dict[str, Any],
    reached: list[dict[str, Any]],
) -> str:
    """The tables of the documentation."""
    lines = [
        "| workload | policy | requests | mean JCT real, s | simulated, s | error | p95 real, s "
        "| simulated, s | error | error of a task: median | p90 | of all |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.workload} | {one.policy} | {one.requests} | {one.real_mean_s:.2f} "
        f"| {one.simulated_mean_s:.2f} | {one.mean_error:+.1%} | {one.real_p95_s:.2f} "
        f"| {one.simulated_p95_s:.2f} | {one.p95_error:+.1%} | {one.task_error_median:.1%} "
        f"| {one.task_error_p90:.1%} | {one.task_bias:+.1%} |"
        for one in rows
    ]
    lines += [
        "",
        "| workload | mean JCT of | over that of | real | spread | simulated | |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {pair['workload']} | {pair['policies'][1]} | {pair['policies'][0]} "
        f"| {pair['real']:+.1%} | {pair['spread']:.1%} | {pair['simulated']:+.1%} "
        f"| {'clear' if pair['clear'] else ''} |"
        for pair in pairs
    ]
    drift = about["drift between calibrations"]
    stolen = about["share of stolen CPU time"]
    lines += [
        "",
        f"Between the two calibrations decode iterations changed by {drift['decode']:+.1%} and "
        f"prefills by {drift['prefill']:+.1%}. "
        + (f"Stolen CPU time: {stolen:.1%}. " if stolen is not None else "")
        + f"{about['options']['episodes']} episodes a policy"
        + (", calibrated with `--quick`" if about["options"]["quick"] == "True" else "")
        + f"; {about['seconds']} s in all, on {about['machine']}.",
        "",
        "| bar | worst | |",
        "|---|---|---|",
    ]
    lines += [
        f"| {one['bar']} | {one['worst']} | {'met' if one['met'] else 'missed'} |"
        for one in reached
    ]
    return "\n".join(lines) + "\n"


def write_between(page: Path, name: str, text: str) -> None:
    """Put a text between the markers of a page that have a name."""
    begin, end = (f"<!-- {name}: {what} -->\n" for what in ("begin", "end"))
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page}: no marker {begin.strip()} or no {end.strip()}")
    with replacing(page) as part:
        part.write_text(before + begin + text + end + after, encoding="utf-8")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="llama", help="llama (default), fake or a URL")
    parser.add_argument("--size", default="100M", help="of the model of llama: 4M, 25M, 100M")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--workloads", nargs="+", default=["planning", "chain_like"])
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--episodes", type=int, default=3, help="of each policy and workload")
    parser.add_argument("--jobs", type=int, default=60, help="an episode")
    parser.add_argument("--load", type=float, default=2.0)
    parser.add_argument(
        "--tool-times", type=float, default=1.0, help="a factor of all times of tools"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="calibrate with half the measurements")
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/fidelity.json"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--docs", type=Path, help="folder of fidelity.md, of llama or fake")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    begin = time.monotonic()
    with served(options) as server:
        before = measure(server, options)
        runs = play_real(server, before.profile, options)
        after = measure(server, options)
        stolen = server.clock.stolen_share() if isinstance(server.clock, StolenTimeClock) else None
    first = before.profile
    both = fit_profile(
        before.measured + after.measured,
        name=options.server,
        kv_capacity_tokens=first.kv_capacity_tokens,
        prefill=first.prefill,
        token_budget=first.token_budget,
        joins=first.joins,
        source=first.source,
    )
    for run in runs:
        run.simulated = simulate(run, both, options)
        run.at_first = simulate(run, first, options)
    about: dict[str, Any] = {
        "machine": machine(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "seconds": round(time.monotonic() - begin),
        "load average at the end": os.getloadavg()[0],
        "share of stolen CPU time": stolen,
        "drift between calibrations": before.drift(after),
        "profile": str(both),
        "fit": {name: value for name, value in both.error.items() if name.endswith("mape_pct")},
    }
    return 0 if report(options, runs, both, about) else 1


if __name__ == "__main__":
    sys.exit(main())

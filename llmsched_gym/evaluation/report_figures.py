"""The figures of a report, which answer to the mouse: zoom, hover, show and hide.

Names come from users. Plotly reads some HTML in texts, so that all of them are escaped, and none is
part of a template, in which ``%{x}`` would mean something.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_gym.cluster.timeline import Timeline
from llmsched_gym.evaluation.results import Summary
from llmsched_gym.plotting import COLOURS, legend_name, looks_of
from llmsched_gym.rendering.colours import EMPTY, Colour, job_colour
from llmsched_gym.rendering.history import BeliefHistory

try:
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs
    from plotly.subplots import make_subplots
except ImportError as error:
    raise ImportError('a report needs the extra: pip install "llmsched-gym[report]"') from error

SYMBOLS = {  # of matplotlib's markers: those of plotly, and signs in a text
    **{"o": ("circle", "●"), "s": ("square", "■"), "^": ("triangle-up", "▲")},
    **{"D": ("diamond", "◆"), "v": ("triangle-down", "▼"), "P": ("cross", "✚")},
    **{"X": ("x", "✖"), "<": ("triangle-left", "◀"), ">": ("triangle-right", "▶")},
    **{"p": ("pentagon", "⬟"), "h": ("hexagon", "⬢"), "*": ("star", "★")},
    **{"d": ("diamond-tall", "♦"), "8": ("octagon", "⬣"), "H": ("hexagon2", "⬣")},
    **{"1": ("y-down-open", "Y"), "2": ("y-up-open", "⅄"), "+": ("cross-thin-open", "+")},
    **{"3": ("y-left-open", "≻"), "x": ("x-thin-open", "✕"), "None": ("circle-open", "○")},
}
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot"}
LONGEST_NAME, LONGEST_MARK = 28, 18  # signs, of a policy and of a stage
WIDE = 10.0  # numbers that are further apart than this factor have a logarithmic axis
MOST_POINTS = 400  # of a curve
MOST_APPLICATIONS = 24  # in the figure
MOST_BARS, MOST_ARRIVALS = 4000, 1000  # of one policy
LANE, SHORTEST, TALLEST = 12, 90, 440  # pixels: a lane, and all lanes of one policy
MOST_NAMES = 24  # of engines
MOST_LANES = 160  # beyond, only slots and tools that were ever used are drawn
APART = 0.04  # share of the axis: stages that complete closer together have one mark
INK, FAINT, RULE = "#1f2430", "#646b78", "#dfe3e8"


def javascript() -> str:
    """What draws the figures in a browser, plotly.js: 5 MB."""
    return str(get_plotlyjs())


def shown(text: str, longest: int | None = None) -> str:
    """A name from anywhere, in one line, as HTML that means nothing but its signs."""
    text = " ".join(legend_name(text).split())
    short = text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"
    # Plotly knows no &quot;, and makes formulas of what is between dollars.
    return html.escape(short).replace("&quot;", "&#34;").replace("$", "&#36;")


class Looks:
    """How policies look in every figure of a report, as everywhere else, in the terms of plotly.

    Parameters
    ----------
    labels
        Of all policies; the first is evaluated.
    clairvoyant
        Those that know what is hidden.
    """

    def __init__(self, labels: Sequence[str], clairvoyant: Sequence[str]) -> None:
        self._looks, self._evaluated = looks_of(labels, clairvoyant), labels[0]

    def colour(self, label: str) -> str:
        """As CSS."""
        return self._looks[label].colour

    def sign(self, label: str) -> str:
        """The mark as a sign in a text."""
        return SYMBOLS[self._looks[label].marker][1]

    def marker(self, label: str, size: int = 10) -> dict[str, Any]:
        """The mark; that of the evaluated policy is larger."""
        symbol = SYMBOLS[self._looks[label].marker][0]
        width = 1.8 if symbol.endswith("-open") else 0.8  # all that there is of an open one
        size += 3 if label == self._evaluated else 0
        return {"color": self.colour(label), "symbol": symbol, "size": size, "line_width": width}

    def line(self, label: str) -> dict[str, Any]:
        """The line; that of the evaluated policy is strong."""
        dash = self._looks[label].dash
        if dash not in DASHES:  # (0, lengths), in widths of the line
            dash = ",".join(f"{2 * length}px" for length in dash[1])
        width = 3 if label == self._evaluated else 1.8
        return {"color": self.colour(label), "dash": DASHES.get(dash, dash), "width": width}

    def name(self, label: str) -> str:
        """For a legend."""
        known = " (clairvoyant)" if self._looks[label].clairvoyant else ""
        return shown(label, LONGEST_NAME) + known


def tails(summaries: Sequence[Summary], looks: Looks) -> go.Figure:
    """Mean JCT, with its interval, against the 95th and the 99th percentile, a mark a policy."""
    figure = make_subplots(1, 2, horizontal_spacing=0.11)
    for number, one in enumerate(summaries):
        mean, label = one.mean, one.policy
        value = mean.value or 0.0
        low, high = (value if end is None else end for end in (mean.low, mean.high))
        for panel, percentile in enumerate(("p95_jct_s", "p99_jct_s"), start=1):
            figure.add_scatter(
                x=[value],
                y=[one.percentiles[percentile]],
                error_x={
                    "array": [max(0.0, high - value)],
                    "arrayminus": [max(0.0, value - low)],
                    "thickness": 1.2,
                    "color": looks.colour(label),
                },
                mode="markers",
                marker=looks.marker(label),
                name=looks.name(label),
                text=[shown(label)],
                hovertemplate="%{text}<br>mean %{x:.2f} s, "
                f"{percentile[:3]} %{{y:.2f}} s<extra></extra>",
                legendgroup=str(number),
                showlegend=panel == 1,
                row=1,
                col=panel,
            )
    _finish(figure, 420, len(summaries))
    _scale(figure.update_xaxes, [one.mean.value or 0.0 for one in summaries])
    for panel, name in enumerate(("p95", "p99"), start=1):
        values = [one.percentiles[f"{name}_jct_s"] for one in summaries]
        _scale(figure.update_yaxes, values, row=1, col=panel)
        figure.update_xaxes(title_text="mean JCT, s", row=1, col=panel)
        figure.update_yaxes(title_text=f"{name} JCT, s", title_standoff=6, row=1, col=panel)
    return figure


def cdf(jct_s: Mapping[str, ArrayLike], looks: Looks) -> go.Figure:
    """The share of jobs completed within a time, a curve a policy."""
    figure = go.Figure()
    samples = {label: np.sort(np.asarray(one, np.float64)) for label, one in jct_s.items()}
    for label, ordered in samples.items():
        at = np.unique(np.linspace(0, len(ordered) - 1, MOST_POINTS).round().astype(np.int64))
        figure.add_scatter(
            x=np.concatenate([ordered[:1], ordered[at]]).round(4),
            y=np.concatenate([[0.0], (at + 1) / len(ordered)]).round(5),
            mode="lines",
            line={**looks.line(label), "shape": "hv"},
            name=looks.name(label),
            hovertemplate="%{y:.1%} within %{x:.2f} s",
        )
    _finish(figure, 420, len(samples))
    _scale(figure.update_xaxes, np.concatenate([one[[0, -1]] for one in samples.values()]))
    figure.update_xaxes(title_text="job completion time, s", rangemode="tozero")
    figure.update_yaxes(title_text="share of jobs completed", tickformat=".0%", range=[0, 1.02])
    return figure


def by_application(means: Mapping[str, Mapping[str, float]], looks: Looks) -> go.Figure:
    """Mean JCTs, a row an application, a mark a policy.

    Parameters
    ----------
    means
        By application, from the top, and policy: seconds.
    """
    figure = go.Figure()
    applications = list(means)[:MOST_APPLICATIONS]
    labels = list(dict.fromkeys(label for one in means.values() for label in one))
    for number, label in enumerate(labels):
        rows = [row for row, name in enumerate(applications) if label in means[name]]
        apart = 0.5 * (number / max(1, len(labels) - 1) - 0.5) if len(labels) > 1 else 0.0
        figure.add_scatter(
            x=[means[applications[row]][label] for row in rows],
            y=[row + apart for row in rows],
            mode="markers",
            marker=looks.marker(label, 9),
            name=looks.name(label),
            text=[f"{shown(label)}<br>{shown(applications[row])}" for row in rows],
            hovertemplate="%{text}: mean %{x:.2f} s<extra></extra>",
        )
    _finish(figure, 110 + 52 * len(applications), len(labels))
    figure.update_xaxes(rangemode="tozero")
    _scale(figure.update_xaxes, [x for name in applications for x in means[name].values()])
    figure.update_xaxes(title_text="mean JCT, s")
    figure.update_yaxes(
        tickvals=list(range(len(applications))),
        ticktext=[shown(name, LONGEST_NAME) for name in applications],
        range=[len(applications) - 0.5, -0.5],
        showgrid=False,
        fixedrange=True,
    )
    for row in range(1, len(applications)):
        figure.add_hline(row - 0.5, line_color=RULE, line_width=1)
    return figure


def gantt(timelines: Mapping[str, Timeline], applications: Sequence[str]) -> go.Figure:
    """Who ran where and when, a panel a policy: slots of the engines above, tools hatched below.

    Parameters
    ----------
    timelines
        By the labels of the policies, of the same jobs.
    applications
        Their names, by number.
    """
    panels = [_Lanes(one) for one in timelines.values()]
    heights = [min(TALLEST, max(SHORTEST, LANE * panel.lanes)) for panel in panels]
    total = sum(heights) + 56 * len(panels)
    figure = make_subplots(
        len(panels),
        1,
        shared_xaxes="all",
        row_heights=heights,
        vertical_spacing=56 / total if len(panels) > 1 else 0.0,
        subplot_titles=[_summary(*named) for named in timelines.items()],
    )
    figure.update_annotations(x=0, xanchor="left", yshift=12, font_size=13)
    for row, panel in enumerate(panels, start=1):
        for trace in panel.traces(applications):
            figure.add_trace(trace, row=row, col=1)
        for top, lanes in panel.blocks():
            figure.add_hrect(
                top, top + lanes, fillcolor=_css(EMPTY), line_width=0, layer="below", row=row, col=1
            )
        names = panel.names()
        figure.update_yaxes(
            tickvals=list(names),
            ticktext=list(names.values()),
            range=[panel.lanes, -1.6],
            showgrid=False,
            zeroline=False,
            row=row,
            col=1,
        )
    _finish(figure, total + 80, 0)
    figure.update_layout(barmode="overlay", bargap=0, margin_t=64, margin_b=48)
    end_s = max(one.now_s for one in timelines.values())
    figure.update_xaxes(range=[0, max(end_s, 1e-9)], zeroline=False)
    figure.update_xaxes(title_text="time, s", row=len(panels), col=1)
    return figure


class _Lanes:
    """Where the tasks of a timeline are drawn, counted in lanes from the top."""

    def __init__(self, tasks: Timeline) -> None:
        self.tasks = tasks
        self.slots, self.tools = tasks.slots, tasks.regular_executors
        if tasks.engines * self.slots + self.tools > MOST_LANES:
            self.slots = int(tasks.lane.max(initial=0)) + 1
            self.tools = int(tasks.executor[~tasks.llm].max(initial=0)) + 1

    @property
    def lanes(self) -> int:
        return self.tasks.engines * (self.slots + 1) + self.tools

    def blocks(self) -> list[tuple[int, int]]:
        """The upper edges of the engines and of the tools, and how many lanes each has."""
        tops = [number * (self.slots + 1) for number in range(self.tasks.engines)]
        return [*((top, self.slots) for top in tops), (self.lanes - self.tools, self.tools)]

    def names(self) -> dict[float, str]:
        """What is written beside the lanes, and at which: of many engines not every one has it."""
        *engines, tools = self.blocks()
        step = -(-len(engines) // MOST_NAMES)
        named = list(enumerate(engines))[::step]
        found = {top + lanes / 2: f"engine {number}" for number, (top, lanes) in named}
        return found | {tools[0] + tools[1] / 2: "tools"}

    def traces(self, applications: Sequence[str]) -> list[go.Bar | go.Scatter]:
        """The bars on engines, those on tools, and the arrivals."""
        tasks = self.tasks
        names = [shown(name) for name in applications]
        shown_ones = np.arange(len(tasks.job)) < MOST_BARS
        bars = [self._bars(shown_ones & (tasks.llm == llm), llm, names) for llm in (True, False)]
        arrived = np.flatnonzero(~np.isnan(tasks.arrival_s))[:MOST_ARRIVALS]
        return [*bars, self._arrivals(arrived, names)]

    def _bars(self, rows: NDArray[np.bool_], llm: bool, names: Sequence[str]) -> go.Bar:
        tasks = self.tasks
        end = np.where(np.isnan(tasks.end_s), tasks.now_s, tasks.end_s)[rows]
        start, jobs, where = tasks.start_s[rows], tasks.job[rows].tolist(), tasks.executor[rows]
        top = where * (self.slots + 1) + tasks.lane[rows] if llm else self.blocks()[-1][0] + where
        solid = [_css(job_colour(job)) for job in jobs]
        pattern = {} if llm else {"shape": "/", "size": 5, "solidity": 0.45, "fillmode": "replace"}
        return go.Bar(
            orientation="h",
            base=start.round(3),
            x=(end - start).round(3),
            y=top + 0.5,
            width=0.92,
            marker={"color": solid, "line_width": 0, "pattern": pattern},
            hovertext=[self._told(task, names) for task in np.flatnonzero(rows).tolist()],
            hoverinfo="text",
            textposition="none",
            showlegend=False,
        )

    def _told(self, task: int, names: Sequence[str]) -> str:
        """What there is to say of a task."""
        tasks = self.tasks
        job = int(tasks.job[task])
        place = f"engine {tasks.executor[task]}" if tasks.llm[task] else "a tool"
        begin, end = tasks.start_s[task], tasks.end_s[task]
        lasts = "still runs" if np.isnan(end) else f"to {end:,.1f} s ({end - begin:,.1f} s)"
        stage = f"stage {tasks.stage[task]}, task {tasks.task[task]}"
        name = names[int(tasks.application[job])]
        return f"job {job}, {name}<br>{stage}, on {place}<br>from {begin:,.1f} s, {lasts}"

    def _arrivals(self, jobs: NDArray[np.int64], names: Sequence[str]) -> go.Scatter:
        tasks = self.tasks
        arrival, jct = tasks.arrival_s, tasks.completion_s - tasks.arrival_s
        told = [
            f"job {job}, {names[int(tasks.application[job])]}<br>arrives at {arrival[job]:,.1f} s, "
            + ("not done yet" if np.isnan(jct[job]) else f"done after {jct[job]:,.1f} s")
            for job in jobs.tolist()
        ]
        return go.Scatter(
            x=arrival[jobs].round(3),
            y=np.full(len(jobs), -0.8),
            mode="markers",
            marker={
                "symbol": "triangle-down",
                "size": 9,
                "color": [_css(job_colour(job)) for job in jobs.tolist()],
            },
            hovertext=told,
            hoverinfo="text",
            showlegend=False,
            cliponaxis=False,
        )


def _summary(label: str, tasks: Timeline) -> str:
    jct_s, jobs = tasks.jct_s, len(tasks.arrival_s)
    mean = f", their mean JCT {jct_s.mean():,.1f} s" if len(jct_s) else ""
    more = f"; the first {MOST_BARS:,} tasks are drawn" if len(tasks.job) > MOST_BARS else ""
    name = shown(label, LONGEST_NAME)
    return f"<b>{name}</b>: {len(jct_s)} of {jobs} jobs done by {tasks.now_s:,.0f} s{mean}{more}"


def belief(history: BeliefHistory) -> go.Figure:
    """What was believed of a job's remaining demand, its interval, and what it has completed."""
    figure = go.Figure()
    time_s, low, high = history.time_s, history.low_s, history.high_s
    line = {"shape": "hv", "width": 0, "color": COLOURS[1]}
    same: dict[str, Any] = {"x": time_s.round(3), "mode": "lines"}
    figure.add_scatter(y=low.round(3), line=line, showlegend=False, hoverinfo="skip", **same)
    figure.add_scatter(
        y=high.round(3),
        line=line,
        fill="tonexty",
        fillcolor="rgba(0, 114, 178, 0.22)",
        name="its interval",
        hoverinfo="skip",
        **same,
    )
    figure.add_scatter(
        y=history.expected_s.round(3),
        line={"shape": "hv", "width": 2.4, "color": COLOURS[1]},
        name="expected remaining demand",
        text=[f"{a:,.1f} to {b:,.1f} s" for a, b in zip(low, high, strict=True)],
        hovertemplate="at %{x:.1f} s: %{y:.1f} s<br>%{text}<extra></extra>",
        **same,
    )
    _finish(figure, 420, 2)
    _mark_completions(figure, history)
    figure.update_layout(margin_t=120)
    figure.update_xaxes(title_text="time, s")
    figure.update_yaxes(title_text="remaining demand, s", rangemode="tozero")
    return figure


def _mark_completions(figure: go.Figure, history: BeliefHistory) -> None:
    """A dotted line for each stage, a name for those that complete close together."""
    marks: list[tuple[float, list[str]]] = []
    near = APART * float(np.ptp(history.time_s))
    for time_s, name in history.completed:
        figure.add_vline(time_s, line={"color": FAINT, "width": 1, "dash": "dot"})
        if marks and time_s - marks[-1][0] < near:
            marks[-1][1].append(name)
        else:
            marks.append((time_s, [name]))
    for time_s, names in marks:
        more = f" +{len(names) - 1}" if len(names) > 1 else ""
        figure.add_annotation(
            x=time_s,
            y=1,
            yref="paper",
            text=shown(names[0], LONGEST_MARK) + more,
            hovertext="<br>".join(shown(name) for name in names[:20]),
            textangle=-38,
            xanchor="left",
            yanchor="bottom",
            xshift=-4,
            showarrow=False,
            font={"size": 11, "color": FAINT},
        )


def _finish(figure: go.Figure, height: int, named: int) -> None:
    """The looks that all figures share; a legend of so many names is below."""
    rows = -(-named // 4)
    figure.update_layout(
        template="none",
        height=height + 22 * rows,
        margin={"l": 64, "r": 20, "t": 34, "b": 60 + 22 * rows},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"align": "left", "namelength": -1},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "xanchor": "left",
            "x": 0,
        },
    )
    figure.update_xaxes(gridcolor=RULE, linecolor=RULE, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=RULE, linecolor=RULE, zeroline=False, automargin=True)


def _scale(update: Any, values: ArrayLike, **where: int) -> None:
    """A logarithmic axis for numbers that are far apart."""
    numbers = np.asarray(values, np.float64)
    if numbers.min() > 0 and numbers.max() > WIDE * numbers.min():
        update(type="log", nticks=6, minorloglabels="complete", exponentformat="none", **where)


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)

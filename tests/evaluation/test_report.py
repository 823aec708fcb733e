"""The report: what is in it, for names of any kind, and how a browser takes it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents.base import make_policy
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.cluster.timeline import Timeline
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import printable
from llmsched_gym.evaluation import Comparison, Episode, report
from llmsched_gym.evaluation.report_figures import MOST_BARS, SYMBOLS, Looks, belief, gantt, shown
from llmsched_gym.evaluation.reporting import report_places
from llmsched_gym.evaluation.results import Setting
from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import MARKERS
from llmsched_gym.workload.job import Kind
from support.html import Page
from support.sampled import sampled

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
EVIL = (
    "<script>console.error('ran')</script>",
    "<img src=x onerror=\"console.error('ran')\">",
    "</script>\"'&amp;",
    "$name ${plotly} %{x} $a^2$",
    "half a pair \ud800, \x1b[31m\nand a line",
    "long " * 80,
)
MB = 1_000_000


def comparison(
    labels: Sequence[str],
    episodes: int = 2,
    jobs: int = 20,
    applications: Sequence[str] = ("planning", "search"),
) -> Comparison:
    """Episodes that nobody has played; the last of several policies knows what is hidden."""
    rng = np.random.default_rng(3)
    played = []
    for number, label in enumerate(labels):
        for episode in range(episodes):
            jct_s = rng.lognormal(2 + 0.1 * number, 1, jobs)
            table = {
                "application": np.array(applications)[np.arange(jobs) % len(applications)],
                "arrival_s": np.arange(jobs) * 1.0,
                "completion_s": np.arange(jobs) + jct_s,
                "jct_s": jct_s,
                "alone_s": jct_s / (2 + number),
            }
            played.append(Episode(label, episode, table, 9.0, 5, 7.0))
    setting = Setting("mixed", "small", 1.3, 0, f"{labels[0]} at load 1.3\nepisodes: {episodes}")
    seeing = tuple(labels[-1:]) if len(labels) > 1 else ()
    return Comparison(tuple(played), setting, (f"A note on {labels[0]}.",), seeing)


def environment(jobs: int = 6, **options: Any) -> LLMSchedEnv:
    cluster = load_cluster("a100_llama2_7b", engines=2, max_batch=4, regular_executors=4)
    return LLMSchedEnv("planning", cluster, num_jobs=jobs, load=2.0, **options)


def ends(bars: Any) -> tuple[Any, Any]:
    """When the bars of a Gantt chart begin and end."""
    begin = np.asarray(bars.base, np.float64)
    return begin, begin + np.asarray(bars.x, np.float64)


def figures(path: Path) -> list[str]:
    return re.findall('<div id="([a-z_]+)" class="plotly-graph-div', path.read_text("utf-8"))


# --- what is in it --------------------------------------------------------------------------------


def test_its_table_is_the_summary(tmp_path: Path) -> None:
    result = comparison(["mine", "fcfs", "seer"])
    page = Page(report(result, tmp_path / "report.html"))
    head, *rows = page.tables["policies-table"]
    assert head[:5] == ["policy", "mean JCT, s", "p50, s", "p95, s", "p99, s"]
    for row, one in zip(rows, result.summary.to_dict("records"), strict=True):
        assert row[0][1:].removesuffix(" (clairvoyant)") == one["policy"]
        assert row[0].endswith("(clairvoyant)") == (one["policy"] == "seer")
        low, high = one["mean_jct_s_low"], one["mean_jct_s_high"]
        assert row[1] == f"{one['mean_jct_s']:.1f} [{low:.1f}, {high:.1f}]"
        assert row[2:5] == [f"{one[f'p{n}_jct_s']:.1f}" for n in (50, 95, 99)]
        assert row[5] == f"{one['mean_slowdown']:.1f}"
        assert row[6] == ("" if np.isnan(one["x_bound"]) else f"{one['x_bound']:.2f}")
    assert head[6:] == ["x bound", "reduction"]
    assert rows[0][7] == ""
    assert rows[1][7].startswith(f"{100 * result.summary['reduction'][1]:.1f} % [")
    assert html.escape(result.verdict) in (tmp_path / "report.html").read_text("utf-8")


def test_its_applications_are_those_of_the_jobs(tmp_path: Path) -> None:
    result = comparison(["mine", "fcfs"], jobs=21)
    page = Page(report(result, tmp_path / "report.html"))
    head, *rows = page.tables["applications-table"]
    assert head == ["application", "jobs", "mine", "fcfs (clairvoyant)"]
    means = result.jobs.groupby(["application", "policy"]).jct_s.mean()
    expected = [
        [name, jobs, *(f"{means[name, policy]:.1f}" for policy in ("mine", "fcfs"))]
        for name, jobs in (("planning", "22"), ("search", "20"))
    ]
    assert rows == expected


def test_the_lowest_of_those_that_do_not_see_is_bold(tmp_path: Path) -> None:
    result = comparison(["worse", "better", "seer"])
    for number, factor in enumerate((3.0, 2.0, 1.0)):
        for episode in result.played[2 * number : 2 * number + 2]:
            episode.jobs["jct_s"][:] = factor * np.arange(1, 21)
    text = report(result, tmp_path / "report.html").read_text("utf-8")
    bold = re.findall(r'class="best" data-value="([^"]*)', text.split('id="applications')[0])
    expected = [21.0, *np.percentile(2 * np.tile(np.arange(1, 21), 2), [50, 95, 99])]
    assert [float(one) for one in bold] == pytest.approx(expected)
    alone = report(comparison(["only"]), tmp_path / "one.html").read_text("utf-8")
    assert 'class="best"' not in alone


def test_the_first_minutes_and_a_belief_are_played_on_a_copy(tmp_path: Path) -> None:
    env, other = environment(), environment(belief="none")
    policies = {"mine": make_policy("llmsched"), "fcfs": make_policy("fcfs")}
    path = report(comparison(["mine", "fcfs"]), tmp_path / "report.html", policies, env, seconds=5)
    assert figures(path) == ["tails", "cdf", "by_application", "gantt", "belief"]
    assert path.stat().st_size < 8 * MB
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.state  # noqa: B018
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        env.beliefs_of(0)
    again = {"mine": make_policy("llmsched"), "fcfs": make_policy("fcfs")}
    twice = report(comparison(["mine", "fcfs"]), tmp_path / "again.html", again, env, seconds=5)
    assert twice.read_bytes() == path.read_bytes()
    blind = report(comparison(["fcfs"]), tmp_path / "b.html", {"fcfs": policies["fcfs"]}, other)
    assert figures(blind) == ["tails", "cdf", "by_application", "gantt"]


def test_the_gantt_chart_has_every_task_in_its_lane() -> None:
    env = environment()
    policy = make_policy("fcfs")
    env.record_beliefs()
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        observation, _, over, _, _ = env.step(policy.act(observation))
    tasks = env.timeline()
    calls = tasks.start_s[tasks.llm]
    half = tasks.at(float(calls[len(calls) // 2]))  # when a call begins
    figure = gantt({"whole": tasks, "half": half}, env.bank.applications)
    llm, tools, arrivals, *rest = figure.data
    assert len(llm.x) + len(tools.x) == len(tasks.job) < MOST_BARS
    begin, end = ends(llm)
    np.testing.assert_allclose(begin, tasks.start_s[tasks.llm], atol=1e-3)
    np.testing.assert_allclose(end, tasks.end_s[tasks.llm], atol=2e-3)
    np.testing.assert_array_equal(
        llm.y, 5 * tasks.executor[tasks.llm] + tasks.lane[tasks.llm] + 0.5
    )
    np.testing.assert_array_equal(tools.y, 10 + tasks.executor[~tasks.llm] + 0.5)
    assert len(arrivals.x) == 6
    assert len(rest) == 3
    running = np.isnan(half.end_s[half.llm])
    assert running.any()
    np.testing.assert_allclose(ends(rest[0])[1][running], half.now_s, atol=2e-3)
    assert ["still runs" in told for told in rest[0].hovertext] == running.tolist()
    history = env.beliefs_of(2)
    expected = belief(history).data[2]
    np.testing.assert_allclose(expected.y, history.expected_s, atol=1e-3)


@pytest.mark.slow
def test_a_large_cluster_is_drawn_as_far_as_there_is_room() -> None:
    tasks, engines = 2 * MOST_BARS, 300
    number = np.arange(tasks)
    many = Timeline(
        **dict.fromkeys(("stage", "task", "lane"), number % 2),
        job=number // 2,
        kind=np.where(number % 3, Kind.LLM, Kind.REGULAR),
        executor=number % engines,
        start_s=number.astype(np.float64),
        end_s=number.astype(np.float64) + 0.5,
        arrival_s=np.arange(tasks // 2, dtype=np.float64),
        completion_s=np.full(tasks // 2, np.nan),
        application=np.zeros(tasks // 2, np.int64),
        now_s=tasks + 1.0,
        engines=engines,
        slots=64,
        regular_executors=500,
    )
    figure = gantt({"many": many}, ["planning"])
    assert len(figure.data[0].x) + len(figure.data[1].x) == MOST_BARS
    assert "the first 4,000 tasks are drawn" in figure.layout.annotations[0].text
    bottom, top = figure.layout.yaxis.range
    assert top < min(figure.data[0].y) < max(figure.data[1].y) < bottom
    assert len(figure.layout.yaxis.ticktext) <= 25
    assert len(figure.to_json()) < MB
    assert figure.layout.height < 700


# --- names and sizes of any kind ------------------------------------------------------------------


def test_twenty_policies_look_different() -> None:
    labels = [str(number) for number in range(19)]
    looks = Looks([*labels, "seer"], ["seer"])
    for look in (looks.line, looks.marker):
        kinds = {repr(sorted(look(label).items())) for label in [*labels, "seer"]}
        assert len(kinds) == 20


def test_every_marker_has_a_symbol_and_a_sign() -> None:
    assert {*MARKERS, "None", "x"} == SYMBOLS.keys()


@given(st.text())
def test_a_name_is_nothing_but_text(text: str) -> None:
    assert not set(shown(text)) & set("<>\"'$\n")
    assert html.unescape(shown(text)) == " ".join(printable(text).split())
    assert len(html.unescape(shown(text, 12))) <= 12


def test_names_of_users_are_no_html(tmp_path: Path) -> None:
    plain = Page(report(comparison(list("abcdef"), applications=list("uvwxyz")), tmp_path / "1"))
    page = Page(report(comparison(EVIL, applications=EVIL), tmp_path / "2"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [list(more) for _, more in page.tags] == [list(more) for _, more in plain.tags]
    rows = page.tables["policies-table"]
    assert {row[0][1:] for row in rows} >= {EVIL[0][:27] + "…", "</script>\"'&amp;"}
    assert EVIL[0] in (row[0] for row in page.tables["applications-table"])


@pytest.mark.parametrize(
    ("policies", "episodes", "jobs"), [(1, 1, 1), (1, 3, 2), (2, 1, 5), (20, 10, 1000)]
)
def test_it_works_for_few_and_for_many(
    tmp_path: Path, policies: int, episodes: int, jobs: int
) -> None:
    labels = [f"policy {number}" for number in range(policies)]
    names = [f"application {number}" for number in range(min(jobs, 60))]
    result = comparison(labels, episodes, jobs, names)
    path = report(result, tmp_path / "report.html")
    assert path.stat().st_size < 8 * MB
    page = Page(path)
    assert len(page.tables["policies-table"]) == 1 + policies
    assert len(page.tables["applications-table"]) == 1 + len(names)
    assert figures(path) == ["tails", "cdf", "by_application"]


# --- what cannot be reported ----------------------------------------------------------------------


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    result, path = comparison(["fcfs"]), tmp_path / "report.html"
    policies, env = {"fcfs": make_policy("fcfs")}, environment(2)
    for wrong, message in (
        ((policies,), "^policies and env belong together: give both, or neither$"),
        ((None, env), "^policies and env belong together"),
        (({}, env), "^policies: at least one is needed$"),
    ):
        with pytest.raises(ValueError, match=message):
            report(result, path, *wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^seconds: -1 is not a positive time in seconds$"):
        report(result, path, policies, env, seconds=-1)
    with pytest.raises(FileNotFoundError):
        report(result, tmp_path / "none" / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("page", "figures"):
        monkeypatch.delitem(sys.modules, f"llmsched_gym.evaluation.report_{name}", raising=False)
    for name in [one for one in sys.modules if one.split(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    line = r'^a report needs the extra: pip install "llmsched-gym\[report\]"$'
    with pytest.raises(ImportError, match=line):
        report(comparison(["fcfs"]), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


# --- in a browser ---------------------------------------------------------------------------------

LOOK = """
<script>
addEventListener("load", () => setTimeout(() => {
  const names = () => [...document.querySelectorAll("#policies-table tbody tr")].map(
    row => row.cells[1].dataset.value);
  const button = document.querySelectorAll("#policies-table th button")[1];
  const told = {before: names()};
  button.click(); told.up = names();
  button.click(); told.down = names();
  told.plots = document.querySelectorAll(".plotly-graph-div > .plot-container").length;
  told.bars = document.querySelectorAll("#gantt .barlayer .point path").length;
  told.wide = document.documentElement.scrollWidth - innerWidth;
  const pre = document.createElement("pre");
  pre.id = "told";
  pre.textContent = JSON.stringify(told);
  document.body.append(pre);
}, 500));
</script>
"""


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")


def told_by_browser(path: Path, look: str) -> dict[str, Any]:
    """What a script in the page finds there; the page has nothing to complain about."""
    text = path.read_text("utf-8")
    path.write_text(text.replace("</body>", f"{look}</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--window-size=800,1200"]
    command += [f"--user-data-dir={path.parent / 'profile'}", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=8000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)  # type: ignore[arg-type]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = re.search('<pre id="told">(.*?)</pre>', done.stdout)
    assert found, done.stderr
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert told["wide"] <= 0
    return told


@needs_browser
def test_a_browser_shows_it_without_complaint(tmp_path: Path) -> None:
    env = environment()
    policies = {EVIL[0]: make_policy("fcfs"), EVIL[3]: make_policy("sjf")}
    result = comparison(EVIL, applications=EVIL)
    path = report(result, tmp_path / "report.html", policies, env, seconds=20)
    told = told_by_browser(path, LOOK)
    assert told["plots"] == 5
    assert told["bars"] > 20
    means = [one.mean.value or 0.0 for one in result.summaries]
    assert [float(one) for one in told["before"]] == means
    assert [float(one) for one in told["up"]] == sorted(means)
    assert told["down"] == told["up"][::-1]


@needs_browser
@sampled("labels", [EVIL, ("mine", "fcfs", "seer")])
def test_a_browser_shows_several_places(tmp_path: Path, labels: tuple[str, ...]) -> None:
    places = [comparison(labels, applications=labels[:n]) for n in (2, 3)]
    path = report_places("Two\nplaces", places, tmp_path / "report.html", ["A note."])
    names = re.findall(' id="([^"]*)"', path.read_text("utf-8"))
    assert len(names) == len(set(names))
    page = Page(path)
    summaries = [one.summaries for one in places]
    means = [[f"{one.mean.value:.1f}" for one in each] for each in summaries]
    assert [row[1:] for row in page.tables["places-table"][1:]] == list(
        map(list, zip(*means, strict=True))
    )
    for number, each in enumerate(means):
        rows = page.tables[f"place{number}-policies-table"][1:]
        assert [row[1].split()[0] for row in rows] == each
        assert len(page.tables[f"place{number}-applications-table"]) == 1 + (2, 3)[number]
    told = told_by_browser(path, LOOK.replace("#policies-table", "#place1-policies-table"))
    assert told["plots"] == 6
    assert [float(one) for one in told["up"]] == sorted(map(float, told["before"]))


def test_places_may_have_scores(tmp_path: Path) -> None:
    places = [comparison(("mine", "other", "seer")) for _ in range(2)]
    scores = {
        "mine": [Estimate(0.5, 0.4, 0.65), Estimate(-0.2), Estimate(0.15)],
        "other": [Estimate(0.25), Estimate(None), Estimate(0.4)],
    }
    path = report_places("Two", places, tmp_path / "report.html", [], scores)
    head, *rows = Page(path).tables["scores-table"]
    assert [one[1:] for one in head[1:]] == ["mine", "other"]
    assert [row[0] for row in rows] == ["mine at load 1.3"] * 2 + ["mean"]
    assert [row[1:] for row in rows] == [
        ["50.0 [40.0, 65.0]", "25.0"],
        ["-20.0", "n/a"],
        ["15.0", "40.0"],
    ]
    text = path.read_text("utf-8").split('id="places-table"')[0]
    bold = re.findall(r'class="best" data-value="[^"]*">([^< ]*)', text)
    assert bold == ["50.0", "40.0"], "the highest, where all have one"
    assert '<h2 class="place">mine at load 1.3</h2><p class="about">episodes: 2</p>' in (
        path.read_text("utf-8")
    )


def test_a_policy_may_play_in_some_places_only(tmp_path: Path) -> None:
    places = [comparison(labels) for labels in (("mine", "seer"), ("mine", "sjf", "seer"))]
    path = report_places("Two\nplaces", places, tmp_path / "report.html", [])
    rows = Page(path).tables["places-table"][1:]
    assert [(row[0][1:], bool(row[1]), bool(row[2])) for row in rows] == [
        ("mine", True, True),
        ("seer (clairvoyant)", True, True),
        ("sjf", False, True),
    ]

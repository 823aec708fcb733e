"""The experiments: end to end, after an interrupt, after damage, and with bad input."""

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmsched_gym import metrics
from llmsched_gym.agents.base import POLICIES, make_policy
from llmsched_gym.agents.ppo.policy import PPO
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.alone import EmptyCluster
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.commands import evaluate
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError, MissingExtra
from llmsched_gym.evaluation import episodes
from llmsched_gym.experiments import figures, plan, play
from llmsched_gym.experiments.cells import Cell, Place, Variant
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.mixes import make_workload
from support.refusals import refused
from support.sampled import sampled

ROOT = Path(__file__).parents[2]
TINY = (
    *("experiment=paper_quick", "experiment.workloads=[planning,task_automation]"),
    "experiment.policies=[fcfs,srtf,resource_srtf,{name:llmsched_priced,epsilon:1,label:eager},"
    "{name:fair,workloads:[planning]}]",
    "experiment.episodes=6",
    *(
        "experiment.num_jobs=8",
        "experiment.engines=[1,2]",
        "experiment.engines_policies=[llmsched]",
    ),
    *("experiment.epsilon=[0.5]", "experiment.fraction=[1.0]", "experiment.belief_num_jobs=4"),
    "workload.jobs_per_application=40",
)
TABLES = [
    "applications.csv",
    "belief.csv",
    "jobs.csv.gz",
    "results.csv",
    "summary.csv",
    "summary.json",
]
TIMED = {"overhead.csv", "overhead.png"}

Command = Callable[..., tuple[int, str, str]]


def experiment(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "evaluate.py", *TINY, f"output_dir={folder}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def outcome(folder: Path) -> dict[str, bytes]:
    """All that does not depend on the clock."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name not in TIMED
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run without incidents, in one process."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    done = experiment(folder, "processes=1")
    assert done.returncode == 0, done.stderr
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_its_tables_fit_together(whole: Path) -> None:
    assert set(TABLES) <= set(outcome(whole))
    results, summary = table(whole / "results.csv"), table(whole / "summary.csv")
    assert {row["study"] for row in results} == {
        "main",
        "engines",
        "ablations",
        "epsilon",
        "fraction",
    }
    main = [row for row in results if row["study"] == "main"]
    policies = {
        "llmsched",
        "resource_srtf",
        "eager",
        "fair",
        "fcfs",
        "srtf",
        "sjf",
        "srtf_oracle",
    }
    assert {row["policy"] for row in main} == policies
    assert len(main) == 2 * (len(policies) - 1) * 6 + 6, "one plays in one workload only"
    with gzip.open(whole / "jobs.csv.gz", "rt") as lines:
        jobs = list(csv.DictReader(lines))
    assert len(jobs) == len(main) * 8
    assert all(float(job["jct_s"]) >= float(job["alone_s"]) - 1e-9 for job in jobs)
    for row in summary:
        same = [
            float(one["mean_jct_s"])
            for one in results
            if all(one[k] == row[k] for k in ("study", "workload", "load", "engines", "policy"))
        ]
        assert float(row["mean_jct_s"]) == pytest.approx(np.mean(same))
    mine = [
        j for j in jobs if (j["workload"], j["policy"], j["episode"]) == ("planning", "fcfs", "0")
    ]
    (row,) = (
        r for r in main if (r["workload"], r["policy"], r["episode"]) == ("planning", "fcfs", "0")
    )
    slowdown = np.array([float(job["jct_s"]) / float(job["alone_s"]) for job in mine])
    assert float(row["mean_slowdown"]) == pytest.approx(slowdown.mean())
    assert float(row["jain"]) == pytest.approx(slowdown.sum() ** 2 / 8 / (slowdown**2).sum())
    assert json.loads((whole / "summary.json").read_text())["clairvoyant"] == ["srtf_oracle"]


@pytest.mark.slow
def test_two_processes_give_the_same_results(whole: Path, tmp_path: Path) -> None:
    assert experiment(tmp_path / "out", "processes=2").returncode == 0
    assert outcome(tmp_path / "out") == outcome(whole)


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_results(whole: Path, tmp_path: Path) -> None:
    """Of a run that began with processes, too: its cells are kept."""
    pytest.importorskip("ray")
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    cells = sorted(folder.glob("cells/*.cell"))
    for path in cells[::2]:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in cells[1::2]}
    done = experiment(folder, "experiment.ray=local")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert outcome(folder) == outcome(whole)
    for path in cells:
        if "belief" in path.name or not path.name.startswith("planning"):
            continue
        mine, theirs = (load_content(one / "cells" / path.name) for one in (folder, whole))
        assert mine == theirs


def load_content(path: Path) -> Any:
    """What a cell holds but for times by the clock."""
    body = json.loads(gzip.decompress(path.read_bytes().partition(b"\n")[2]))
    return [{k: v for k, v in one.items() if k != "decision_us"} for one in body["content"]]


@pytest.mark.slow
def test_a_ray_cluster_with_other_code_is_refused(tmp_path: Path) -> None:
    cell = Cell(Place("planning", 1.3, 1), Variant("fcfs", (), "none", BeliefSettings()), 8, 0, 1)
    with pytest.raises(InputError, match=": there is other code than here, or other libraries$"):
        play.content_elsewhere(None, (cell, "other"))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [sys.executable, "evaluate.py", *TINY, f"output_dir={folder}", "processes=2"]
    running = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    total = len(list((whole / "cells").glob("*.cell")))
    deadline = time.monotonic() + 120
    while len(list(folder.glob("cells/*.cell"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    time.sleep(2)  # its workers end themselves
    assert not (folder / "results.csv").exists()
    cells = list(folder.glob("cells/*.cell"))
    assert 5 <= len(cells) < total
    kept = {path: path.stat().st_mtime_ns for path in cells}
    assert experiment(folder, "processes=2").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "none of them is played again"
    assert outcome(folder) == outcome(whole)


@pytest.mark.slow
def test_damaged_cells_alone_are_played_again(whole: Path) -> None:
    before = outcome(whole)
    cells = sorted((whole / "cells").glob("*.cell"))
    content = {path: path.read_bytes() for path in cells[:4]}
    cells[0].write_bytes(content[cells[0]][:-7])
    cells[1].write_bytes(b"")
    flipped = bytearray(content[cells[2]])
    flipped[len(flipped) // 2] ^= 1
    cells[2].write_bytes(flipped)
    cells[3].unlink()
    kept = {path: path.stat().st_mtime_ns for path in cells[4:]}
    assert experiment(whole, "processes=1").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert outcome(whole) == before
    assert len({path.read_bytes()[:64] for path in cells}) == len(cells)


@pytest.fixture
def command(run_main: Command) -> Command:
    """Runs the command in an empty folder: exit code, stdout, stderr."""

    def run(*arguments: str) -> Any:
        traced = "experiment=traces" in arguments
        return run_main(evaluate.main, *(() if traced else TINY), *arguments)

    return run


@sampled(
    ("argument", "message"),
    [
        ("experiment=best", "choose from beyond, paper, paper_quick, robustness, suite, traces"),
        ("experiment.episode=3", "episode"),
        (
            "+experiment.episode=3",
            "unknown option 'experiment.episode' (did you mean 'episodes'?); valid here: name, ",
        ),
        ("experiment.episodes=0", "experiment.episodes: 0 is not a whole number of at least 1"),
        ("experiment.loads=[0]", "experiment.loads: 0 is not a positive number"),
        ("experiment.loads=[]", "experiment.loads: [] is not a list that is not empty"),
        ("experiment.workloads=[all]", "unknown 'all'"),
        ("experiment.workloads=[traces]", "experiment.workloads: real jobs need experiment=traces"),
        ("experiment.policies=[best]", "policy: unknown 'best', choose from argus"),
        ("experiment.epsilon=[2]", "epsilon: 2 is not a number from 0 to 1"),
        ("workload.arrivals=burst", "workload.arrivals: an experiment compares loads"),
        ("experiment.name=[a]", "experiment.name: ['a'] is not a text"),
        ("experiment.name=null", "experiment.name: None is not a text"),
        ("experiment.workloads=5", "experiment.workloads: 5 is not a list such as"),
        ("experiment.workloads=[[planning]]", "experiment.workloads: ['planning'] is not a value"),
        ("experiment.policies=[[fcfs]]", "experiment.policies: ['fcfs'] is not of a list"),
        (
            "experiment.policies=[{name:fair,workloads:1}]",
            "experiment.policies: workloads: 1 is not a list of names",
        ),
        ("experiment.policies=[{a:1}]", "experiment.policies: {'a': 1} is not of a list"),
        ("experiment.epsilon=[[0.5]]", "experiment.epsilon: [0.5] is not a value"),
        ("experiment.loads=[[1]]", "experiment.loads: [1] is not a"),
        ("experiment.engines=[[1]]", "experiment.engines: [1] is not a"),
        (
            "+experiment.ablations.a={epsilon:[1]}",
            "experiment.ablations.a.epsilon: [1] is no value",
        ),
        ("experiment.ablations=[1]", "experiment.ablations: "),
        ("experiment.engines=[x]", "experiment.engines: 'x' is not a whole number"),
        ("+experiment.ablations.a=1", "experiment.ablations: each needs options"),
        ("experiment=traces", "path: workload=traces needs a JSON lines file"),
        ("experiment=traces workload.path=absent", "absent: no such file or folder"),
        ("processes=0", "processes: 0"),
        ("episodes=3", "episodes: not an option of an experiment, which has experiment.episodes"),
        ("workload=planning", "workload: not an option of an experiment"),
        ("workload.load=2", "workload.load: not an option of an experiment"),
        ("policy=fcfs", "policy: not an option of an experiment, which has experiment.policies"),
        ("belief=prior", "belief: not an option of an experiment"),
        ("cluster.engines=0", "engines: 0 is not a whole number of at least 1"),
        ("output_dir=", "output_dir: it needs the name of a folder"),
        ("experiment.ray=127.0.0.1:1", "experiment.ray: no Ray at '127.0.0.1:1'"),
        ("experiment.ray=[a]", "experiment.ray: ['a'] is not a text"),
        ("animation=true", "animation: not an option of an experiment"),
    ],
)
def test_bad_input_ends_with_one_line(
    command: Command, tmp_path: Path, argument: str, message: str
) -> None:
    assert message in refused(tmp_path, *command(*argument.split()))


def check_printed(out: str, folder: Path) -> None:
    """The same means as in the files, in 80 columns, and the report's as well."""
    lines = [line for line in out.splitlines() if not line.startswith(("- ", "Files: "))]
    assert max(map(len, lines)) <= 80
    assert "- Lowest mean: " in out
    page = (folder / "report.html").read_text(encoding="utf-8")
    for row in table(folder / "summary.csv"):
        label = row["policy"]
        (line,) = (one for one in lines if one.split()[:1] in ([label], [f"{label}*"]))
        assert line.split()[1] == f"{float(row['mean_jct_s']):.1f}"
        assert f">{float(row['mean_jct_s']):,.1f}<" in page


def test_a_report_needs_its_extra(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "llmsched_gym.evaluation.report_figures", raising=False)
    monkeypatch.setitem(sys.modules, "plotly", None)
    line = 'evaluate.py: a report needs the extra: pip install "llmsched-gym[report]"\n'
    assert command("report=true", "output_dir=out") == (2, "", line)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_has_changed_is_played_again(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one in this process: as evaluate.py says, and again after other code or jobs."""
    less = [
        *("experiment.workloads=[planning]", "experiment.episodes=2", "experiment.policies=[fcfs]"),
        *("experiment.engines=[]", "experiment.epsilon=[]", "experiment.fraction=[]"),
        *("experiment.ablations=null", "experiment.belief_episodes=0", "processes=1"),
    ]
    monkeypatch.setattr(figures, "draw_all", lambda folder: None)  # its own tests are slower

    def written() -> dict[str, int]:
        assert command(*less, "output_dir=out")[::2] == (0, "")
        return {path.name: path.stat().st_mtime_ns for path in Path("out/cells").iterdir()}

    def kept(before: dict[str, int], after: dict[str, int]) -> int:
        return sum(after.get(name) == when for name, when in before.items())

    first = written()
    assert len(first) == 4
    code, out, _ = command(*less, "output_dir=out", "report=true")
    assert code == 0
    check_printed(out, tmp_path / "out")
    assert written() == first
    tables = outcome(tmp_path / "out")
    calls: list[int] = []

    def other_code(policies: Any) -> str:
        calls.append(1)
        return f"code {len(calls)}"  # as if it were edited while cells are played

    with monkeypatch.context() as patch:
        patch.setattr(plan, "fingerprint", other_code)
        second = written()
    assert kept(first, second) == 0
    assert second.keys() == first.keys()
    assert outcome(tmp_path / "out") == tables
    assert kept(second, written()) == 0, "the code is what it was before"
    less += ["experiment.num_jobs=9"]
    assert command(*less, "output_dir=out")[0] == 2, "results of 8 jobs are not replaced unasked"
    less += ["overwrite=true"]
    assert len(written()) == 8

    before = written()
    less += ["workload.duration_scale=0.5"]
    assert len(after := written()) == 12, "other jobs"
    assert kept(before, after) == 8
    note = "scaled: prompts x 1, outputs x 1, tool times x 0.5"
    assert note in json.loads(Path("out/summary.json").read_text())["notes"]
    less.pop()
    assert written() == after
    results = table(Path("out/results.csv"))
    evaluate.main(
        [
            *("workload=planning", "workload.jobs_per_application=40", "episodes=2", "num_jobs=9"),
            *("cluster.engines=1", "cluster.regular_executors=32", "processes=1", "output_dir=one"),
        ]
    )
    alike = {(row["policy"], row["episode"]): row for row in table(Path("one/episodes.csv"))}
    assert len(results) == 8
    for row in results:
        same = alike[row["policy"], row["episode"]]
        for name in ("mean_jct_s", "p95_jct_s", "makespan_s", "num_jobs"):
            assert row[name] == same[name]


def test_belief_does_not_matter_to_policies_that_do_without() -> None:
    """So that an experiment need not work it out for them."""
    cluster = load_cluster("a100_llama2_7b", engines=1)
    for workload in ("planning", "chain_like"):
        jobs = make_workload(workload, jobs_per_application=40)
        unsure, sure = (
            LLMSchedEnv(jobs, cluster, num_jobs=12, load=2, belief=belief)
            for belief in ("none", "bayes")
        )
        for name in sorted(POLICIES):
            policy = make_policy(name)
            if not policy.needs_belief:
                without, with_it = (
                    episodes.play(env, policy, name, 0, 0) for env in (unsure, sure)
                )
                assert without.jobs["jct_s"].tolist() == with_it.jobs["jct_s"].tolist(), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_keeps_what_is_finished(tmp_path: Path, processes: int) -> None:
    arguments = (*TINY, "experiment.episodes=1000", "output_dir=out", f"processes={processes}")
    running = subprocess.Popen(
        [sys.executable, str(ROOT / "evaluate.py"), *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while running.poll() is None and not list(tmp_path.glob("out/cells/*.cell")):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: its workers, too
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err == "evaluate.py: interrupted, run the same command to go on\n"
    assert os.listdir(tmp_path / "out") == ["cells"]


def test_the_slowdown_by_hand() -> None:
    assert metrics.slowdown([6.0, 5.0, 0.0], [2.0, 5.0, 0.0]).tolist() == [3, 1, 1]


def test_the_index_of_jain_by_hand() -> None:
    assert metrics.jain([2.0, 2.0, 2.0]) == pytest.approx(1)
    assert metrics.jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(1 / 4)
    assert metrics.jain([1.0, 3.0]) == pytest.approx(16 / 20)


def test_a_job_alone_by_hand() -> None:
    # 20 ms a token and a prefill; three calls of 50 tokens run side by side for 1 s, on two slots
    # for 2 s; then a tool of 3 s.
    ask = Stage("ask", Kind.LLM, (), (LLMTask(10, 50),) * 3)
    tool = Stage("tool", Kind.REGULAR, (0,), (RegularTask(3.0),))
    bank = JobBank.from_jobs([Job("a", "1", (ask, tool)), Job("a", "2", (ask,))])
    wide = load_cluster("constant", engines=4, max_batch=1, regular_executors=1)
    assert EmptyCluster(bank, wide).alone_s([0, 1, 0]) == pytest.approx([4, 1, 4])
    narrow = load_cluster("constant", engines=2, max_batch=1, regular_executors=1)
    assert EmptyCluster(bank, narrow).alone_s([0, 1]) == pytest.approx([5, 2])


def test_without_torch_the_networks_are_left_out(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(policy: PPO, path: Path) -> None:
        raise MissingExtra(f"it needs torch to read a {policy.kind}")

    monkeypatch.setattr(PPO, "_load", missing)
    monkeypatch.setattr(figures, "draw_all", lambda folder: None)
    code, out, err = command(
        *("experiment.workloads=[planning]", "experiment.episodes=1", "processes=1"),
        *("experiment.engines=[]", "experiment.epsilon=[]", "experiment.fraction=[]"),
        *("experiment.ablations=null", "experiment.belief_episodes=0", "output_dir=out"),
        "experiment.policies=[fcfs,{name:ppo,workloads:[planning]}]",
    )
    assert (code, err) == (0, "")
    assert "ppo is left out: policy ppo: it needs torch to read a ppo" in out
    played = {row["policy"] for row in table(Path("out/results.csv"))}
    assert played == {"llmsched", "fcfs", "sjf", "srtf_oracle"}

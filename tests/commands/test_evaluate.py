"""The command: its files, its table, and one line for everything that is wrong."""

import csv
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmsched_gym.agents.base import POLICIES
from llmsched_gym.cluster.preset import CLUSTERS
from llmsched_gym.commands import evaluate
from llmsched_gym.commands.groups import groups
from llmsched_gym.env.scenario import BELIEFS
from llmsched_gym.evaluation.episodes import episode_seeds
from llmsched_gym.evaluation.results import REFERENCES
from llmsched_gym.workload.mixes import WORKLOADS, make_workload
from support.sampled import sampled

ROOT = Path(__file__).parents[2]
TINY = ("episodes=2", "num_jobs=10", "processes=1", "workload.load=2")
GENERATED = ("workload=task_automation", "workload.jobs_per_application=40")
FILES = ["episodes.csv", "jct_by_policy.png", "jct_cdf.png", "jobs.csv", "summary.json"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(run_main: Command) -> Command:
    """Runs the command in an empty folder: exit code, stdout, stderr."""

    def run(*arguments: str) -> Any:
        generated = () if "workload=traces" in arguments else GENERATED
        return run_main(evaluate.main, *TINY, *generated, *arguments)

    return run


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def column(table: list[dict[str, str]], name: str, **where: str) -> list[float]:
    chosen = [row for row in table if all(row[key] == value for key, value in where.items())]
    return [float(row[name]) for row in chosen]


def test_files_agree_with_each_other(command: Command) -> None:
    code, out, err = command("output_dir=out")
    assert (code, err) == (0, "")
    assert sorted(os.listdir("out")) == FILES
    assert os.listdir() == ["out"]
    episodes, jobs = rows(Path("out/episodes.csv")), rows(Path("out/jobs.csv"))
    assert list(episodes[0]) == [
        *("policy", "workload", "cluster", "load", "seed", "episode", "num_jobs"),
        *("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "makespan_s"),
        *("decisions", "decision_us", "bound_s"),
    ]
    job_columns = ["policy", "episode", "job", "application", "arrival_s", "completion_s", "jct_s"]
    assert list(jobs[0]) == job_columns
    policies = ["llmsched", "fcfs", "fair", "sjf", "srtf", *REFERENCES]
    assert [row["policy"] for row in episodes] == [name for name in policies for _ in range(2)]
    assert len(jobs) == 7 * 2 * 10
    for row in jobs:
        jct = float(row["completion_s"]) - float(row["arrival_s"])
        assert float(row["jct_s"]) == pytest.approx(jct)
    for row in episodes:
        mine = {"policy": row["policy"], "episode": row["episode"]}
        times = column(jobs, "jct_s", **mine)
        assert float(row["mean_jct_s"]) == pytest.approx(np.mean(times))
        assert float(row["p95_jct_s"]) == pytest.approx(np.percentile(times, 95))
        assert float(row["makespan_s"]) == max(column(jobs, "completion_s", **mine))
        assert (row["load"], row["seed"], row["num_jobs"]) == ("2.0", "0", "10")
        assert int(row["decisions"]) >= 10
        assert float(row["decision_us"]) > 0
        assert 0 < float(row["bound_s"]) <= float(row["mean_jct_s"])
    summary = json.loads(Path("out/summary.json").read_text())
    for name, one in summary["policies"].items():
        mean = np.mean(column(episodes, "mean_jct_s", policy=name))
        assert one["mean_jct"]["value"] == pytest.approx(mean)
        assert one["p99_jct_s"] == pytest.approx(
            np.percentile(column(jobs, "jct_s", policy=name), 99)
        )
        if name != "llmsched":
            own = summary["policies"]["llmsched"]["mean_jct"]["value"]
            assert one["reduction"]["value"] == pytest.approx(1 - own / mean)
        assert one["clairvoyant"] == (name in REFERENCES)
        assert f"{mean:.1f}" in out
    assert "srtf_oracle*" in out
    assert summary["settings"]["workload"]["load"] == 2


def test_policies_meet_the_same_episodes(command: Command) -> None:
    command("output_dir=out")
    jobs = rows(Path("out/jobs.csv"))

    def episode(policy: str, number: str) -> list[tuple[str, str]]:
        return [
            (row["application"], row["arrival_s"])
            for row in jobs
            if (row["policy"], row["episode"]) == (policy, number)
        ]

    for policy in ("fcfs", "srtf", *REFERENCES):
        assert episode(policy, "0") == episode("llmsched", "0")
        assert episode(policy, "1") == episode("llmsched", "1")
    assert episode("fcfs", "0") != episode("fcfs", "1")
    seeds = [episode_seeds(seed, number) for seed in range(9) for number in range(9)]
    assert len({seed for pair in seeds for seed in pair}) == 2 * 81


def without_times(file: Path) -> list[dict[str, str]]:
    return [{key: row[key] for key in row if key != "decision_us"} for row in rows(file)]


def test_another_run_and_more_processes_change_nothing_but_decision_times(
    command: Command, tmp_path: Path
) -> None:
    tables, results = [], []
    for processes in (1, 1, 2):
        code, out, err = command(f"processes={processes}", "output_dir=out", "policy=random")
        assert (code, err) == (0, "")
        tables.append(out)
        files = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
        del files["episodes.csv"]
        results.append((files, without_times(tmp_path / "out/episodes.csv")))
    assert tables[0] == tables[1] == tables[2]
    assert results[0] == results[1] == results[2]
    code, out, _ = command("seed=1", "output_dir=out", "policy=random", "overwrite=true")
    assert code == 0
    assert out != tables[0]


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Nothing on stderr, no other files, a class of the user's, in two processes."""
    (tmp_path / "mine.py").write_text(
        "from llmsched_gym.agents.base import PriorityPolicy, job_feature\n"
        "class Youngest(PriorityPolicy):\n"
        "    def __init__(self, sign: float = 1):\n"
        "        self.sign = sign\n"
        "    def priority(self, observation):\n"
        "        return -self.sign * job_feature(observation, 'age_s')\n"
    )
    done = subprocess.run(
        [
            *(
                sys.executable,
                str(ROOT / "evaluate.py"),
                *TINY,
                *GENERATED,
                "processes=2",
                "baselines=[sjf]",
            ),
            *("policy=custom", "policy.path=mine:Youngest", "+policy.sign=-1"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mine:Youngest" in done.stdout
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    folder = next(name for name in files if "outputs" in name).rpartition("/")[0]
    assert folder.startswith("outputs/custom_task_automation_a100_llama2_7b_load2.0_bayes_seed0_b")
    wanted = [*(f"{folder}/{name}" for name in FILES), "mine.py"]
    assert sorted(name for name in files if "__pycache__" not in name) == sorted(wanted)


def test_help_lists_every_choice(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    listed = {
        group: set(choices.split(", "))
        for group, _, choices in (line.partition(": ") for line in out.splitlines())
        if group in groups()
    }
    assert listed["policy"] == {*POLICIES, "custom"}
    assert listed["workload"] == set(WORKLOADS)
    assert listed["cluster"] == {*CLUSTERS, "custom", "calibrated"}
    assert listed["belief"] == set(BELIEFS)


def test_every_option_of_a_workload_can_be_set() -> None:
    options = set(inspect.signature(make_workload).parameters)
    named = {key for node in groups()["workload"].values() for key in vars(node)}
    assert named == options | {"load", "arrival_rate"}


def test_one_episode_has_no_intervals_and_a_rate_no_load(command: Command) -> None:
    code, out, _ = command("episodes=1", "workload.arrival_rate=0.5", "output_dir=out")
    assert code == 0
    assert "[" not in out
    assert "at 0.5 jobs/s on" in out
    assert {row["load"] for row in rows(Path("out/episodes.csv"))} == {""}


def test_beliefs(command: Command) -> None:
    code, out, _ = command("belief=none", "policy=fair", "baselines=[fcfs]", "output_dir=none")
    assert code == 0
    assert "belief none" in out
    code, out, _ = command("belief=oracle", "policy=srtf", "baselines=[fcfs]", "output_dir=oracle")
    assert code == 0
    assert "srtf*" in out
    assert "fcfs*" not in out
    policies = json.loads(Path("oracle/summary.json").read_text())["policies"]
    assert policies["srtf"]["mean_jct"] == policies["srtf_oracle"]["mean_jct"]


def test_baselines_are_not_run_twice(command: Command) -> None:
    command("policy=srtf", "baselines=[srtf,fcfs,fcfs]", "output_dir=out")
    policies = json.loads(Path("out/summary.json").read_text())["policies"]
    assert list(policies) == ["srtf", "fcfs", *REFERENCES]
    busy = ("workload=web_search", "cluster.engines=1", "num_jobs=40", "output_dir=busy")
    command("policy.epsilon=1", "baselines=[llmsched]", *busy)
    policies = json.loads(Path("busy/summary.json").read_text())["policies"]
    assert list(policies) == ["llmsched", "llmsched (defaults)", *REFERENCES]
    assert policies["llmsched"]["mean_jct"] != policies["llmsched (defaults)"]["mean_jct"]


def test_baselines_have_options_and_labels(command: Command) -> None:
    eager = "{name: llmsched, epsilon: 1.0, explore_fraction: 1.0, label: eager}"
    again = "{name: custom, path: 'llmsched_gym.agents.srtf:SRTF', label: again}"
    baselines = f"baselines=[srtf, {{name: srtf, label: mine}}, {again}, {eager}]"
    busy = ("workload=web_search", "cluster.engines=1", "num_jobs=40", "output_dir=out")
    code, out, err = command(baselines, *busy)
    assert (code, err) == (0, "")
    summary = json.loads(Path("out/summary.json").read_text())
    labels = ["llmsched", "srtf", "mine", "again", "eager", *REFERENCES]
    assert list(summary["policies"]) == labels
    assert summary["settings"]["baselines"][1] == {"name": "srtf", "label": "mine"}
    mean = {label: summary["policies"][label]["mean_jct"]["value"] for label in labels}
    assert mean["srtf"] == mean["mine"] == mean["again"]
    assert mean["eager"] != mean["llmsched"]
    assert summary["verdict"] in out
    assert "mine" in summary["verdict"]


def test_several_settings_in_one_command(command: Command) -> None:
    code, _out, err = command("-m", "policy=fair,fcfs", "baselines=[]", "episodes=1")
    assert (code, err) == (0, "")
    folders = sorted(path.name.partition("_")[0] for path in Path("outputs").iterdir())
    assert folders == ["fair", "fcfs", "multirun.yaml"]


TASK = {"prompt_tokens": 20, "output_tokens": 10}


def job(**changes: Any) -> dict[str, Any]:
    """Two stages; the changes are of the second."""
    known: dict[str, Any] = {"parents": [], "revealed_by": None}
    plan = {"id": 0, "name": "plan", "kind": "llm", "tasks": [TASK], **known}
    run = {"id": 1, "name": "run", "kind": "regular", "tasks": [{"duration_s": 1.5}], **known}
    return {"app": "mine", "job_id": "1", "stages": [plan, run | {"parents": [0]} | changes]}


def lines(*jobs: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in jobs)


def numbered(count: int, **changes: Any) -> str:
    return lines(*({**job(**changes), "job_id": str(number)} for number in range(count)))


def test_traces_and_a_cluster_of_ones_own(command: Command) -> None:
    Path("jobs.jsonl").write_text(numbered(60))
    preset = ROOT / "llmsched_gym/cluster/presets/constant.yaml"
    Path("my.yaml").write_text(preset.read_text().replace("name: constant", "name: mine"))
    code, out, err = command(
        *("workload=traces", "workload.path=jobs.jsonl"),
        *("cluster=custom", "cluster.path=my.yaml", "cluster.engines=1", "output_dir=out"),
    )
    assert (code, err) == (0, "")
    assert "on mine (1 engines" in out
    assert "traces: " in out


BAD_TRACES = {
    "cycle": (lines(job(), job(parents=[1])), "jobs.jsonl:2: stages", "cycle"),
    "missing parent": (lines(job(parents=[5])), "jobs.jsonl:1: stages[1].parents", "no stage"),
    "negative": (lines(job(tasks=[{"duration_s": -1}])), ":1: stages[1].tasks[0].duration_s", "-1"),
    "nan": (lines(job(tasks=[{"duration_s": float("nan")}])), "jobs.jsonl:1:", "NaN"),
    "kind": (lines(job(kind="gpu")), "jobs.jsonl:1: stages[1].kind", "gpu"),
    "truncated": (lines(job()) + lines(job())[:60], "jobs.jsonl:2:", ""),
    "empty": ("", "jobs.jsonl", ""),
    "too large": (
        numbered(60, kind="llm", tasks=[TASK | {"prompt_tokens": 10**8}]),
        "application mine: a prompt of 100000000 tokens",
        "KV capacity",
    ),
}


@pytest.mark.parametrize("case", BAD_TRACES)
def test_bad_traces_end_with_one_line(command: Command, case: str) -> None:
    text, place, what = BAD_TRACES[case]
    Path("jobs.jsonl").write_text(text)
    line = one_line(*command("workload=traces", "workload.path=jobs.jsonl", "output_dir=out"))
    assert place in line
    assert what in line


BAD_CLUSTERS = {
    "missing": ("a: 20.0, ", "", "my.yaml: latency.decode_ms.a: missing"),
    "negative": ("a: 20.0", "a: -20.0", "my.yaml: a: -20.0 is not a time in ms"),
    "text": ("a: 20.0", "a: fast", "my.yaml: a: 'fast' is not a number"),
    "unknown": ("c: 0.0", "c: 0.0, b: 1.0", "my.yaml: latency.decode_ms.b: unknown field; valid: "),
    "size": ("engines: 4", "engines: 0", "my.yaml: engines: 0 is not a whole number of at least 1"),
    "syntax": ("{a: 20.0", "{{a: 20.0", "my.yaml: line 9: "),
}


@pytest.mark.parametrize("case", BAD_CLUSTERS)
def test_bad_clusters_end_with_one_line(command: Command, case: str) -> None:
    old, new, message = BAD_CLUSTERS[case]
    preset = (ROOT / "llmsched_gym/cluster/presets/constant.yaml").read_text()
    assert old in preset
    Path("my.yaml").write_text(preset.replace(old, new))
    arguments = ("cluster=custom", "cluster.path=my.yaml", "output_dir=out")
    assert message in one_line(*command(*arguments))


def test_traces_in_an_empty_folder(command: Command) -> None:
    Path("none").mkdir()
    arguments = ("workload=traces", "workload.path=none", "output_dir=out")
    assert "none: no *.jsonl file in this folder" in one_line(*command(*arguments))


def test_jobs_longer_than_the_clock_end_with_one_line(command: Command) -> None:
    Path("jobs.jsonl").write_text(numbered(60, tasks=[{"duration_s": 1e6}]))
    arguments = ("workload=traces", "workload.path=jobs.jsonl", "output_dir=out")
    line = one_line(*command(*arguments, "cluster.regular_executors=1"))
    assert "policy llmsched: episode 0: its jobs take longer than the simulator can count" in line
    Path("jobs.jsonl").write_text(numbered(60, tasks=[{"duration_s": 1e6}] * 5))
    line = one_line(*command(*arguments))
    assert "application mine: the tasks of job" in line
    assert "may take 5e+06 s in all" in line


def one_line(code: int, out: str, err: str) -> str:
    assert code == 2, err
    assert out == ""
    assert err.startswith("evaluate.py: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert not Path("out").exists()
    assert not [name for name in os.listdir() if name.startswith((".", "outputs"))]
    return err


@sampled(
    ("arguments", "message"),
    [
        ("policy=best", "policy: unknown 'best', choose from argus, "),
        ("policy=srft", "policy: unknown 'srft' (did you mean 'srtf'?), choose from argus, "),
        ("baselines=[fscfs]", "policy: unknown 'fscfs' (did you mean 'fcfs'?), choose from "),
        ("workload=planing", "workload: unknown 'planing' (did you mean 'planning'?), choose"),
        ("cluster=a100_llama_7b", "(did you mean 'a100_llama2_7b'?), choose from a100_"),
        ("cluster.name=a100_llama_7b", "(did you mean 'a100_llama2_7b'?), choose from a100_"),
        ("episode=3", "unknown option 'episode' (did you mean 'episodes'?); valid here: policy, "),
        ("workload=best", "workload: unknown 'best', choose from chain_like, "),
        ("cluster=best", "cluster: unknown 'best', choose from a100_"),
        ("belief=worst", "belief: unknown 'worst', choose from bayes, none, oracle, prior"),
        ("baselines=[best]", "policy: unknown 'best', choose from "),
        ("baselines=[{name:srtf},{name:srtf}]", "baselines: 'srtf' is there twice, give each a la"),
        ("baselines=[{name:llmsched}]", "baselines: 'llmsched' is there twice, give each a label"),
        ("baselines=[{name:fcfs,label:srtf_oracle}]", "policies: 'srtf_oracle' is there twice"),
        ("baselines=[{label:mine}]", "baselines: {'label': 'mine'} is not of a list such as [fcfs"),
        ("baselines=[{name:fcfs,label:3}]", "baselines: label: 3 is not a text"),
        ("baselines=[{name:custom}]", "policy custom: it needs a path such as my_module:MyPolicy"),
        ("baselines=[{name:llmsched,epsilom:1,label:a}]", "(did you mean 'epsilon'?); valid opt"),
        ("baselines=fcfs", "baselines: 'fcfs' is not a list such as [fcfs,fair]"),
        ("policy.eps=1", "unknown option 'policy.eps' (did you mean 'epsilon'?); valid here: name"),
        ("+policy.eps=1", "unknown option 'eps' (did you mean 'epsilon'?); valid options: epsilon"),
        ("policy.epsilon=2", "policy llmsched: epsilon: 2 is not a number from 0 to 1"),
        ("workload.path=x", "unknown option 'workload.path'; valid here: name, load"),
        ("+workload.best=x", "unknown option 'workload.best'; valid here: name, load"),
        ("workload.load=0", "load: 0.0 is not a positive number"),
        ("workload.load=-1", "load: -1.0 is not a positive number"),
        ("workload.load=nan", "load: nan is not a positive number"),
        ("workload.load=high", "workload.load: Value 'high' of type 'str' could not be conv"),
        ("workload.load=1e-9", "arrival_s: "),
        ("workload.load=1e-9", "load: 1e-09 is too small"),
        ("workload=traces workload.path=absent", "absent: no such file or folder"),
        ("workload=traces workload.path=.", "no *.jsonl file in this folder"),
        ("workload=traces", "path: workload=traces needs"),
        ("cluster=custom", "cluster.path: Missing mandatory value"),
        ("cluster=custom cluster.path=absent.yaml", "no such file: absent.yaml"),
        ("cluster.engines=0", "engines: 0 is not a whole number of at least 1"),
        ("belief.bins=0", "bins: 0 is not a whole number between 1 and 100"),
        ("belief.bins=few", "belief.bins: Value 'few' of type 'str' could not be converted"),
        ("belief=none", "policy llmsched: needs belief=bayes, prior or oracle"),
        ("belief=none policy=fair baselines=[sjf]", "policy sjf: needs belief=bayes"),
        ("episodes=0", "episodes: 0 is not a whole number of at least 1"),
        ("episodes=many", "episodes: 'many' is not a whole number of at least 1"),
        ("num_jobs=0", "num_jobs: 0 is not a whole number of at least 1"),
        ("processes=-1", "processes: -1 is not a whole number of at least 1"),
        ("seed=-1", "seed: -1 is not a whole number of at least 0"),
        ("max_stages=1", "max_stages: 1 cannot hold a single job"),
        ("jobs=2", "unknown option 'jobs' (did you mean 'num_jobs'?); valid here: policy, "),
        ("+jobs=2", "unknown option 'jobs' (did you mean 'num_jobs'?); valid here: policy, "),
        ("polcy=fcfs", "unknown option 'polcy' (did you mean 'policy'?); valid here"),
        ("workload.laod=1", "unknown option 'workload.laod' (did you mean 'load'?); valid here: "),
        ("cluster.engine=1", "unknown option 'cluster.engine' (did you mean 'engines'?); valid "),
        ("policy=custom", "policy.path: Missing mandatory value"),
        ("policy=custom policy.path=absent:Best", "cannot import 'absent'"),
        ("policy=[", "'policy=[' is not of the form name=value"),
        ("episodes", "'episodes' is not of the form name=value"),
        ("~policy", "policy: choose from argus, "),
        ("output_dir=null", "output_dir: it needs the name of a folder"),
        ("output_dir=", "output_dir: it needs the name of a folder"),
        ("--best", "unknown flag '--best', choose from --help, "),
        ("--cfg jobs", "unknown flag '--cfg=jobs', choose from --help, "),
        ("--cfg", "unknown flag '--cfg', choose from --help, "),
    ],
)
def test_bad_input_ends_with_one_line(command: Command, arguments: str, message: str) -> None:
    output = () if "output_dir" in arguments else ("output_dir=out",)
    line = one_line(*command(*output, *arguments.split()))
    assert message in line


@sampled("argument", ["policy=best", "cluster=custom", "policy.epsilon=2"])
def test_bad_input_in_a_process_of_its_own(tmp_path: Path, argument: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), *TINY, *GENERATED, argument],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("evaluate.py: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


WRONG_POLICIES = """
from llmsched_gym.agents.base import Policy
class Illegal(Policy):
    def act(self, observation):
        return 10**6
class Broken(Policy):
    def act(self, observation):
        raise KeyError("lost")
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failed_run_leaves_earlier_results_alone(command: Command, processes: int) -> None:
    Path("wrong.py").write_text(WRONG_POLICIES)
    Path("out").mkdir()
    Path("out/episodes.csv").write_text("earlier")
    arguments = ("policy=custom", "output_dir=out", f"processes={processes}")
    code, _, err = command(*arguments, "policy.path=wrong:Illegal")
    assert code == 2
    assert "policy wrong:Illegal: episode " in err  # with two processes, either may be first
    assert ": action 1000000: valid actions are" in err
    assert err.count("\n") == 1
    code, _, err = command(*arguments, "policy.path=wrong:Broken")
    assert code == 1
    assert "KeyError: 'lost'" in err, "a bug in a policy shows its traceback"
    assert os.listdir("out") == ["episodes.csv"]
    assert Path("out/episodes.csv").read_text() == "earlier"
    assert sorted(name for name in os.listdir() if name != "__pycache__") == ["out", "wrong.py"]


def test_only_its_own_files_are_replaced(command: Command) -> None:
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    Path("out/episodes.csv").write_text("earlier")
    assert command("output_dir=out", "baselines=[]", "policy=fcfs")[0] == 0
    assert sorted(os.listdir("out")) == sorted([*FILES, "notes.txt"])
    assert len(rows(Path("out/episodes.csv"))) == 6
    Path("file").write_text("")
    code, _, err = command("output_dir=file")
    assert (code, err.count("\n")) == (2, 1)
    assert "output_dir: file: Not a directory" in err


def test_a_traceback_on_request(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit):
        evaluate.main(["policy.epsilon=2"])


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, processes: int) -> None:
    arguments = (*GENERATED, "episodes=100", "num_jobs=5000", "output_dir=out")
    running = subprocess.Popen(
        [sys.executable, str(ROOT / "evaluate.py"), *arguments, f"processes={processes}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while running.poll() is None and not list(tmp_path.iterdir()):
        time.sleep(0.05)  # until it plays
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: its workers, too
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err == "evaluate.py: interrupted, no results are written\n"
    assert not list(tmp_path.iterdir())


def test_tools_that_are_the_bottleneck_are_named(command: Command) -> None:
    few = command("policy=sjf", "baselines=[]", "cluster.regular_executors=1")
    assert "The 1 regular executors are offered" in few[1]
    enough = command("policy=sjf", "baselines=[]", "cluster.regular_executors=1000")
    assert "regular executors are offered" not in enough[1]


def test_secrets_of_the_environment_are_not_kept(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_JOBS", "hunter2.jsonl")
    Path("hunter2.jsonl").write_text(numbered(60))
    code, _, err = command(
        "workload=traces", "workload.path=${oc.env:MY_JOBS}", "policy=fcfs", "output_dir=out"
    )
    assert (code, err) == (0, "")
    assert "hunter2" not in Path("out/summary.json").read_text()
    assert "oc.env:MY_JOBS" in Path("out/summary.json").read_text()


def test_pictures_on_request(command: Command, run_main: Command) -> None:
    code, _, err = command("report=true", "animation=true", "output_dir=out")
    assert (code, err) == (0, "")
    assert sorted(os.listdir("out")) == sorted(
        [*FILES, "animation.gif", "gantt.png", "report.html"]
    )
    assert Path("out/animation.gif").read_bytes().startswith(b"GIF89a")
    assert "<!doctype html>" in Path("out/report.html").read_text(encoding="utf-8").lower()[:200]
    code, _, err = run_main(evaluate.main, "experiment=paper_quick", "animation=true")
    assert code == 2
    assert err == (
        "evaluate.py: animation: not an option of an experiment, which has figures of its own\n"
    )

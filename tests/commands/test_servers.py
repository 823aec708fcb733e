"""evaluate.py backend=testbed: its files, how it goes on, and a line for all that is wrong."""

from __future__ import annotations

import csv
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmsched_gym.cluster.calibration import write_cluster
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.commands import evaluate, train
from llmsched_gym.testbed import EventLog, Fault
from support.sampled import sampled
from support.servers import PROFILE, SCALES, SLOTS, SLOW, fake_servers

ROOT = Path(__file__).parents[2]
TINY = (
    *("policy=fcfs", "baselines=[sjf]", "episodes=2", "num_jobs=4", "workload=task_automation"),
    *("workload.jobs_per_application=40", "workload.arrivals=burst", "backend=testbed"),
    *(f"workload.{name}={factor}" for name, factor in SCALES.items()),
)
POLICIES = ("fcfs", "sjf", "srtf_oracle")
FILES = ["episodes.csv", "jct_by_policy.png", "jct_cdf.png", "jobs.csv", "summary.json"]
TASK_COLUMNS = (
    "policy episode job stage task kind engine queued_s sent_s first_token_s end_s prompt_tokens "
    "output_tokens retries"
).split()
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, ...]]:
    with fake_servers(2) as found:
        yield found


@pytest.fixture
def slow_urls() -> Iterator[tuple[str, ...]]:
    with fake_servers(2, profile=SLOW) as found:
        yield found


@pytest.fixture
def command(run_main: Command, urls: tuple[str, ...]) -> Command:
    """Runs the command on two servers that are known, in an empty folder."""

    def run(*arguments: str) -> Any:
        write_cluster(Cluster("fake", PROFILE), "../fake.yaml")  # beside the folder
        given = [one for one in named(urls) if one.split("=")[0] not in "".join(arguments)]
        if not any(one.startswith("cluster=") for one in arguments):
            given += ["cluster=custom", "cluster.path=../fake.yaml"]
        return run_main(evaluate.main, *TINY, *given, *arguments)

    return run


def named(urls: tuple[str, ...]) -> list[str]:
    return [f"testbed.url=[{','.join(urls)}]", f"testbed.slots={SLOTS}"]


def rows(file: str) -> list[dict[str, str]]:
    with Path(file).open() as lines:
        return list(csv.DictReader(lines))


# --- What it writes -------------------------------------------------------------------------------


def test_files_agree_with_each_other(command: Command, urls: tuple[str, ...]) -> None:
    code, out, err = command("output_dir=out")
    assert (code, err) == (0, "")
    assert sorted(os.listdir("out")) == sorted([*FILES, "logs", "tasks.csv"])
    assert f"Played in real time on {urls[0]}, {urls[1]}, 4 slots each." in out
    assert "scaled: prompts x 0.02, outputs x 0.1, tool times x 0.01" in out
    assert "(2 engines x 4 slots, mixed prefill of 256 tokens, late joins, 16" in " ".join(
        out.split()
    )
    jobs, tasks, episodes = rows("out/jobs.csv"), rows("out/tasks.csv"), rows("out/episodes.csv")
    assert [row["policy"] for row in episodes] == [name for name in POLICIES for _ in range(2)]
    assert len(jobs) == 3 * 2 * 4
    assert list(tasks[0]) == TASK_COLUMNS
    for row in jobs:
        key = (row["policy"], row["episode"], row["job"])
        mine = [one for one in tasks if (one["policy"], one["episode"], one["job"]) == key]
        ends = [float(one["end_s"]) for one in mine]
        assert max(ends) == pytest.approx(float(row["completion_s"]), abs=1e-6)
        assert min(float(one["queued_s"]) for one in mine) == float(row["arrival_s"]) == 0
    for policy in POLICIES:
        drawn: list[Counter[tuple[str, str]]] = [Counter() for _ in range(2)]
        for row in tasks:
            if row["policy"] == policy and row["kind"] == "llm":
                drawn[int(row["episode"])][row["prompt_tokens"], row["output_tokens"]] += 1
        assert drawn == [
            Counter(
                (row["prompt_tokens"], row["output_tokens"])
                for row in tasks
                if (row["policy"], row["episode"], row["kind"]) == ("sjf", number, "llm")
            )
            for number in "01"
        ], "the same jobs for all"


@pytest.mark.slow
def test_every_task_is_in_the_table_once_and_in_the_log(command: Command) -> None:
    command("output_dir=out", "episodes=1")
    tasks = rows("out/tasks.csv")
    keys = Counter((r["policy"], r["job"], r["stage"], r["task"]) for r in tasks)
    assert set(keys.values()) == {1}
    for row in tasks:
        llm = row["kind"] == "llm"
        assert row["engine"] in (("0", "1") if llm else ("-1",))
        assert (row["first_token_s"] == "") != llm
        assert row["retries"] == ("0" if llm else "-1")
        times = [row[name] for name in ("queued_s", "sent_s", "first_token_s", "end_s")]
        numbers = [float(one) for one in times if one]
        assert numbers == sorted(numbers)
    names = sorted(os.listdir("out/logs"))
    logs = [f"{policy}_episode0.{kind}" for policy in POLICIES for kind in ("jsonl", "npz")]
    assert names == sorted([*logs, "settings.json"])
    for policy in POLICIES:
        log = EventLog.read(f"out/logs/{policy}_episode0.jsonl")
        llm_tasks = [r for r in tasks if r["policy"] == policy and r["kind"] == "llm"]
        asked = [(one.prompt_tokens, one.output_tokens, one.end_s) for one in log.requests]
        assert sorted(asked) == sorted(
            (int(r["prompt_tokens"]), int(r["output_tokens"]), float(r["end_s"])) for r in llm_tasks
        )


@pytest.mark.slow
def test_the_clairvoyant_reference_and_llmsched_play_too(command: Command) -> None:
    mine = "baselines=[{name: llmsched, epsilon: 0.5, label: mine}]"
    code, out, _ = command("policy=llmsched", mine, "episodes=1", "output_dir=out")
    assert code == 0
    labels = ["llmsched", "mine", "srtf_oracle"]
    assert [row["policy"] for row in rows("out/episodes.csv")] == labels
    summary = json.loads(Path("out/summary.json").read_text())["policies"]
    assert all(summary[label]["mean_slowdown"] > 0.5 for label in labels)
    assert "srtf_oracle*" in out
    assert all(float(row["mean_jct_s"]) > 0.05 for row in rows("out/episodes.csv"))


@pytest.mark.slow  # 20 s of measuring
def test_servers_are_measured_where_no_cluster_is_given(
    run_main: Command, slow_urls: tuple[str, ...]
) -> None:
    urls = slow_urls
    given = (*TINY, *named(urls), "episodes=1", "baselines=[]", "cluster.regular_executors=3")
    code, out, err = run_main(evaluate.main, *given)
    assert code == 0
    assert err == f"evaluate.py: measuring {urls[0]} first, about 30 s (cluster=... goes without)\n"
    (folder,) = Path("outputs").iterdir()
    assert folder.name.startswith("fcfs_task_automation_calibrated_load1.3_bayes_seed0_")
    cluster = load_cluster(folder / "cluster.yaml")
    assert (cluster.name, cluster.engines, cluster.max_batch) == ("calibrated", 2, SLOTS)
    assert cluster.regular_executors == 3
    told = " ".join(out.split())
    assert "on calibrated (2 engines x 4 slots, mixed prefill of " in told
    assert "late joins, 3 regular executors)" in told
    found = cluster.latency
    assert (found.prefill, found.joins) == ("mixed", "late")
    assert found.a == pytest.approx(SLOW.a, rel=0.2)
    before = (folder / "cluster.yaml").read_bytes()
    for path in (folder / "logs").glob("*.npz"):
        path.unlink()
    code, _, err = run_main(evaluate.main, *given)
    assert (code, err) == (0, ""), "it goes on with what was measured"
    assert (folder / "cluster.yaml").read_bytes() == before


# --- Interrupted and resumed ----------------------------------------------------------------------


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "evaluate.py"), *TINY, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow  # 25 s
def test_what_is_measured_before_an_interrupt_is_kept(
    run_main: Command, tmp_path: Path, urls: tuple[str, ...]
) -> None:
    write_cluster(Cluster("fake", PROFILE), "fake.yaml")
    given = (
        *named(urls),
        *("cluster=custom", "cluster.path=fake.yaml", "baselines=[]", "episodes=3"),
        "output_dir=out",
    )
    run = started(tmp_path, *given)
    logs = Path("out/logs")
    try:
        while len(list(logs.glob("*.npz"))) < 3 and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    before = {path: path.read_bytes() for path in logs.iterdir()}
    count = len(list(logs.glob("*.npz")))
    assert 3 <= count < 6
    assert (run.returncode, err) == (
        130,
        f"evaluate.py: interrupted, {count} of 6 episodes are kept in out, the same command plays "
        "the others\n",
    )
    whole = count // 2
    assert f"Interrupted: {whole} of 3 episodes are in here." in out
    assert len(rows("out/episodes.csv")) == 2 * whole
    assert not [name for name in os.listdir("out") if name.startswith(".")]
    code, out, err = run_main(evaluate.main, *TINY, *given)
    assert (code, err) == (
        0,
        f"evaluate.py: {count} of 6 episodes were played before, overwrite=true plays all anew\n",
    )
    assert "Interrupted" not in out
    assert [row["episode"] for row in rows("out/episodes.csv")] == [*"012"] * 2
    for path, content in before.items():
        assert path.read_bytes() == content
    results = Path("out/jobs.csv").read_bytes()
    code, _, err = run_main(evaluate.main, *TINY, *given)
    assert (code, Path("out/jobs.csv").read_bytes()) == (0, results), "all are kept"
    assert err.startswith("evaluate.py: 6 of 6 episodes were played before")
    code, _, err = run_main(evaluate.main, *TINY, *given, "overwrite=true")
    assert (code, err) == (0, "")
    assert Path("out/jobs.csv").read_bytes() != results, "times of the real world differ"


@pytest.mark.slow
def test_kept_episodes_are_not_taken_for_those_of_other_settings(command: Command) -> None:
    assert command("output_dir=out", "episodes=1", "baselines=[]")[0] == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*.*")}
    Path("out/summary.json").unlink()
    code, out, err = command("output_dir=out", "episodes=1", "baselines=[]", "seed=1")
    assert (code, out) == (2, "")
    assert err == (
        "evaluate.py: output_dir: out holds results made with seed=0, not 1; choose another "
        "output_dir, or overwrite=true replaces them\n"
    )
    del before[Path("out/summary.json")]
    assert {path: path.read_bytes() for path in Path("out").rglob("*.*")} == before


@pytest.mark.slow
def test_a_server_that_is_lost_leaves_what_was_played(run_main: Command) -> None:
    lost = Fault("500", first=40, count=10**6)
    write_cluster(Cluster("fake", PROFILE), "fake.yaml")
    with fake_servers(1, faults=(lost,)) as urls:
        code, out, err = run_main(
            evaluate.main, *TINY, *named(urls), "cluster=custom", "cluster.path=fake.yaml",
            "episodes=9", "output_dir=out", "testbed.retries=1",
        )  # fmt: skip
    assert (code, out, err.count("\n")) == (2, "", 1)
    count = len(list(Path("out/logs").glob("*.npz")))
    assert count > 0
    assert urls[0] in err
    assert err.endswith(
        f"; {count} of 27 episodes are kept in out, the same command plays the others\n"
    )


# --- What is wrong --------------------------------------------------------------------------------


def one_line(code: int, out: str, err: str) -> str:
    assert code == 2, err
    assert out == ""
    assert err.startswith("evaluate.py: ")
    assert err.count("\n") == 1
    assert os.listdir() == []
    return err


@sampled(
    ("arguments", "message"),
    [
        ("testbed.url=http://127.0.0.1:9", "testbed.url: http://127.0.0.1:9: Connection refused"),
        ("testbed.url=[]", "testbed.url: at least one server is needed, such as http://127.0.0"),
        ("testbed.url=ftp://127.0.0.1", "testbed.url: 'ftp://127.0.0.1' is not like http://"),
        ("testbed.url=7", "testbed.url: 7 is not like http://127.0.0.1:8001"),
        ("testbed.url=[http://a:1,http://a:1/]", "testbed.url: http://a:1 is given twice"),
        ("testbed.url={a:1}", "testbed.url: "),
        ("testbed.url=null", "testbed.url: None is not like http://127.0.0.1:8001"),
        ("~testbed.url", "testbed.url"),
        ("testbed.model=gpt", ": model: unknown 'gpt', it has fake"),
        ("testbed.slots=0", "testbed.slots: 0 is not a whole number from 1 to 10,000"),
        ("testbed.slots=many", "testbed.slots: Value 'many' of type 'str' could not be"),
        ("testbed.slots=5", " runs 4 requests at once, not 5: start it with as many slots, or"),
        ("testbed.timeout_s=0", "testbed.timeout_s: 0.0 is not a positive time in seconds"),
        ("testbed.retries=-1", "testbed.retries: -1 is not a whole number of at least 0"),
        ("testbed.tools=magic", "testbed.tools: unknown 'magic', choose from sleep, process"),
        ("testbed.pids=[]", "testbed.pids: no process of a server is given"),
        ("testbed.pids=[99999999]", "testbed.pids: /proc/99999999/task/*/schedstat cannot be"),
        ("testbed.port=1", "unknown option 'testbed.port'; valid here: url, slots, model, "),
        ("+testbed.port=1", "unknown option 'testbed.port'; valid here: url, slots, model, "),
        (
            "workload.prompt_scale=9 cluster=constant",
            "/v1/completions: status 400: prompt and output are longer than the context of 4000",
        ),
        ("workload.prompt_scale=0", "prompt_scale: 0.0 is not a positive factor"),
        ("workload.output_scale=1e9", "output_scale: 1000000000.0 makes a task of "),
        ("cluster=constant cluster.engines=3", "cluster.engines: it follows from testbed.url, it"),
        ("cluster=calibrated cluster.max_batch=8", "cluster.max_batch: it follows from testbed.s"),
        ("cluster=calibrated testbed.slots=1", "testbed.slots: a server of one slot is not meas"),
        ("cluster=calibrated workload.load=0", "load: 0.0 is not a positive number"),
        ("cluster=calibrated max_stages=1", "max_stages: 1 cannot hold a single job"),
        ("cluster=calibrated cluster.serving=vllm", "cluster.serving: of a cluster that is calibr"),
        ("processes=2", "processes: on servers one episode is played after the other"),
        ("experiment=paper", "backend: experiments are played in the simulator, not on the test"),
        ("backend=best", "backend: unknown 'best', choose from simulator, testbed"),
        ("backend=null", "backend: choose from simulator, testbed"),
        ("backend=simulator", "unknown option 'testbed', which only evaluate.py backend=testbed"),
        ("policy=best", "policy: unknown 'best', choose from argus, "),
        ("belief=none baselines=[sjf]", "policy sjf: needs belief=bayes"),
    ],
)
def test_bad_input_ends_with_one_line(command: Command, arguments: str, message: str) -> None:
    assert message in one_line(*command("output_dir=out", *arguments.split()))


def test_what_must_be_given_is_named(run_main: Command, urls: tuple[str, ...]) -> None:
    for given, missing in (([], "url"), (named(urls)[:1], "slots"), (named(urls)[1:], "url")):
        line = one_line(*run_main(evaluate.main, *TINY, *given))
        assert line == f"evaluate.py: testbed.{missing}: Missing mandatory value: {missing}\n"


def test_a_server_of_something_else_is_none(command: Command) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        line = one_line(*command(f"testbed.url={url}", "output_dir=out"))
        server.shutdown()
    assert line.startswith(f"evaluate.py: testbed.url: {url}: /v1/models: status 404")


def test_the_simulator_knows_no_servers_and_measures_nothing(run_main: Command) -> None:
    simulated = [one for one in TINY if one != "backend=testbed"]
    for given, message in (
        ("testbed.url=http://a:1", "unknown option 'testbed', which only evaluate.py backend=te"),
        ("cluster=calibrated", "cluster: calibrated is what backend=testbed measures, choose an"),
    ):
        assert message in one_line(*run_main(evaluate.main, *simulated, given))


@pytest.mark.parametrize("given", ["backend=testbed", "testbed.url=http://127.0.0.1:1"])
def test_learners_train_in_the_simulator(run_main: Command, given: str) -> None:
    code, out, err = run_main(train.main, given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "which only evaluate.py backend=testbed has" in err or "override 'backend'" in err
    assert os.listdir() == []


def test_a_run_that_cannot_be_kept_does_not_begin(command: Command) -> None:
    Path("out").mkdir()
    Path("out/summary.json").write_text("{}")
    code, _, err = command("output_dir=out", "cluster=calibrated")
    assert code == 2
    assert "is not of these commands; choose another output_dir" in err
    assert "measuring" not in err
    assert os.listdir("out") == ["summary.json"]
    assert json.loads(Path("out/summary.json").read_text()) == {}


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from llmsched_gym.commands.evaluate import main; main(sys.argv[1:])"
    )
    given = [*TINY, "testbed.url=http://127.0.0.1:1", "testbed.slots=1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *given], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("evaluate.py: the testbed needs the extra: pip install ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_testbed_is_loaded_by_the_simulator() -> None:
    program = (
        "import sys, llmsched_gym.commands.evaluate, llmsched_gym.evaluation.comparing\n"
        "print([name for name in sys.modules if 'aiohttp' in name or '.testbed.' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr

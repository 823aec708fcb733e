"""Real servers: llama.cpp with a model of 5M random weights, and the command."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmsched_gym.testbed.child import NotServed, Served
from llmsched_gym.testbed.client import Client, Rejected, Unavailable
from llmsched_gym.testbed.clock import StolenTimeClock
from llmsched_gym.testbed.prompts import prompt_ids
from support.sockets import SocketGuard

for package in ("gguf", "xllamacpp"):
    pytest.importorskip(package, reason="the extra llmsched-gym[testbed] is not installed")

from llmsched_gym.testbed.serve import main, serving  # noqa: E402

Run = Callable[[Any], Any]
COMMAND = [sys.executable, "-m", "llmsched_gym.testbed.serve"]
SLOTS = 3


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("4M", SLOTS, context=600) as one:
        yield one


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


# --- llama.cpp ------------------------------------------------------------------------------------


def test_it_counts_exactly_what_was_asked(run: Run, served: Served, sockets: SocketGuard) -> None:
    asked = [(1, 1), (1, 40), (500, 1), (17, 30), (64, 64), (333, 7), (128, 12)]

    async def play() -> None:
        clock = StolenTimeClock([served.pid]) if sys.platform == "linux" else None
        async with Client(served.url, clock=clock) as client:
            await client.check()
            assert await client.models() == ["4M"]
            before = await client.counters()
            at_once, most = 0, asyncio.Semaphore(SLOTS)
            deferred = []

            async def one(key: int, prompt: int, output: int) -> None:
                nonlocal at_once
                seen: list[int] = []
                async with most:
                    at_once += 1
                    answer = await client.generate(prompt_ids(key, prompt), output, seen.append)
                    deferred.append((await client.counters())["requests_deferred"])
                    at_once -= 1
                assert (answer.prompt_tokens, answer.output_tokens) == (prompt, output)
                assert seen == list(range(1, output + 1))  # an event for each token

            await asyncio.gather(*(one(key, *sizes) for key, sizes in enumerate(asked)))
            after = await client.counters()
            used = {name: after[name] - before[name] for name in after}
            assert used["prompt_tokens_total"] == sum(prompt for prompt, _ in asked)
            assert used["tokens_predicted_total"] == sum(output for _, output in asked)
            assert used["n_decode_total"] < sum(output for _, output in asked)  # a batch
            assert deferred == [0] * len(asked)

    run(play())
    assert sockets.reached == {("127.0.0.1", port_of(served.url))}


def test_the_same_prompt_is_computed_anew(run: Run, served: Served) -> None:
    async def play() -> None:
        async with Client(served.url) as client:
            before = (await client.counters())["prompt_tokens_total"]
            for _ in range(3):
                await client.generate(prompt_ids(1, 400), 2)
            assert (await client.counters())["prompt_tokens_total"] - before == 1200

    run(play())


def test_a_context_that_is_too_small_is_no_passing_fault(run: Run, served: Served) -> None:
    async def play() -> None:
        async with Client(served.url) as client:
            with pytest.raises(Rejected, match="is its context too small"):
                await client.generate(prompt_ids(1, 1_900), 500)
            with pytest.raises(Rejected, match="status 400: "):
                await client.generate(prompt_ids(1, 2_500), 2)
            requests = [client.generate(prompt_ids(key, 600), 300) for key in range(SLOTS)]
            failed = await asyncio.gather(*requests, return_exceptions=True)
            told = [str(error) for error in failed if isinstance(error, Rejected)]
            assert any("its context must hold the prompts and outputs" in line for line in told)
            await client.generate(prompt_ids(1, 100), 5)

    run(play())


def test_a_cancelled_request_frees_its_slot(run: Run, served: Served) -> None:
    async def play() -> None:
        async with Client(served.url) as client:
            began = asyncio.Event()
            request = client.generate(prompt_ids(0, 20), 1_500, lambda _: began.set())
            task = asyncio.create_task(request)
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while (await client.counters())["requests_processing"]:
                await asyncio.sleep(0.01)

    run(play())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_in_mid_stream_and_back_on_the_same_port(run: Run) -> None:
    async def killed(served: Served) -> None:
        async with Client(served.url) as client:
            await client.check()

            def kill(tokens: int) -> None:
                if tokens == 3:
                    os.kill(served.pid, signal.SIGKILL)

            with pytest.raises(Unavailable):
                await client.generate(prompt_ids(0, 10), 3_000, kill)
            with pytest.raises(Unavailable, match="Connection refused"):
                await client.generate(prompt_ids(0, 10), 3)

    async def back(served: Served) -> None:
        async with Client(served.url) as client:
            assert (await client.generate(prompt_ids(0, 10), 3)).output_tokens == 3

    with serving("4M", 2) as served:
        run(killed(served))
        with serving("4M", 2, port=port_of(served.url)) as again:
            assert again.url == served.url
            run(back(again))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_stopped_it_is_given_up(run: Run, served: Served) -> None:
    async def play() -> None:
        async with Client(served.url, timeout_s=0.3) as client, Client(served.url) as patient:
            await patient.check()
            os.kill(served.pid, signal.SIGSTOP)
            try:
                with pytest.raises(Unavailable, match=r"no answer within 0\.3 s"):
                    await client.generate(prompt_ids(0, 10), 3)
                assert not await client.healthy()
            finally:
                os.kill(served.pid, signal.SIGCONT)
            assert (await patient.generate(prompt_ids(0, 10), 3)).output_tokens == 3

    run(play())


# --- The command ----------------------------------------------------------------------------------

BAD = {
    "--size 5M": "argument --size: invalid choice: '5M'",
    "--slots 0": "argument --slots: invalid whole number from 1 to 1024 value: '0'",
    "--slots x": "argument --slots: invalid whole number from 1 to 1024 value: 'x'",
    "--port 65536": "argument --port: invalid whole number from 0 to 65535",
    "--port 65535 --count 2": "--port, --count: the last port would be 65536",
    "--bogus": "unrecognized arguments: --bogus",
    "--model nowhere.gguf": "nowhere.gguf: no such file",
    "--model .": "--model: .: a folder, not a file",
    "--model words.gguf": "--model: words.gguf: not a GGUF file",
    "--fake nope": "unknown name 'nope'; valid: a100_llama2_70b_tp4, ",
    "--fake nowhere.yaml": "nowhere.yaml",
    "--fake --fault nope": "fault: unknown 'nope', choose from refuse, ",
    "--fake --fault cut,x=1": "fault: unknown option 'x'",
    "--fake --token-budget 99": "token_budget: only prefill=mixed has one",
    "--fake --prefill mixed --token-budget 8": "8 tokens an iteration leave none",
    "--fake --prefill some": "argument --prefill: invalid choice: 'some'",
    "--slots 2 --fault 503": "--fault: only a --fake has it",
    "--prefill mixed": "--prefill: only a --fake has it",
    "--fake --model words.gguf": "--model: not with --fake",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_told_in_a_line(
    arguments: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.gguf").write_text("words")
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    said = capfd.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("serve: ")
    assert BAD[arguments] in line


def test_a_port_that_is_taken(served: Served) -> None:
    taken = f"^serve: port {port_of(served.url)}: Address already in use$"
    with pytest.raises(NotServed, match=taken), serving("4M", 2, port=port_of(served.url)):
        pass


def test_a_model_that_llama_cpp_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\x00" * 100)
    with pytest.raises(NotServed, match=r"^serve: llama\.cpp: .+"), serving(model=path):
        pass


@contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("--size=4M", signal.SIGTERM),
        ("--size=4M", signal.SIGINT),
        ("--fake", signal.SIGINT),
        ("--fake --count=2", signal.SIGTERM),
    ],
)
def test_it_says_when_it_is_ready_and_ends_quietly(
    run: Run, kind: str, number: signal.Signals
) -> None:
    async def well(url: str) -> None:
        async with Client(url) as client:
            await client.check()
            assert (await client.generate(prompt_ids(0, 5), 2)).output_tokens == 2

    with command("--slots=2", *kind.split()) as (process, said):
        for _ in range(2 if "count" in kind else 1):
            line = said()
            assert "2 slots" in line
            url, ready = line.split(" is ready: ")
            assert ready.endswith("\n")
            run(well(url))
        process.send_signal(number)
        rest = process.communicate(timeout=20)
        assert (process.returncode, *rest) == (0, "", "")


def test_faults_of_a_fake_are_given_on_the_command_line(run: Run) -> None:
    async def play(url: str) -> None:
        async with Client(url) as client:
            with pytest.raises(Unavailable, match="status 503"):
                await client.generate(prompt_ids(0, 5), 2)
            with pytest.raises(Rejected, match="status 404"):
                await client.generate(prompt_ids(0, 5), 2)
            await client.generate(prompt_ids(0, 5), 2)

    with command("--fake", "--fault=503", "--fault=404,first=1") as (_, said):
        run(play(said().split()[0]))

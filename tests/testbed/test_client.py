"""One request: what comes of it when all goes well, and one line when it does not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.testbed import client as module
from llmsched_gym.testbed.client import Answer, Client, Rejected, Unavailable, checked_url
from llmsched_gym.testbed.fake import FakeServer
from llmsched_gym.testbed.faults import Fault
from llmsched_gym.testbed.prompts import prompt_ids
from support.raw_server import DONE, MODELS, event, page, raw_server, stream, token, usage
from support.sockets import SocketGuard

Run = Callable[[Any], Any]
PROFILE = LatencyProfile(
    "quick", a=10, c=0.1, d=0.001, p0=10, e=5, f=0.01, g=0, kv_capacity_tokens=10_000
)
PROMPT = [300, 301, 302]
GOOD = stream(token() + token() + usage(3, 2) + DONE)


async def ask(
    completions: Any, models: Any = None, tokens: int = 2, timeout_s: float = 5.0
) -> Answer:
    """The answer of a server that says what is given."""
    async with (
        raw_server(completions, models) as raw,
        Client(raw.url, timeout_s=timeout_s) as client,
    ):
        try:
            return await client.generate(PROMPT, tokens)
        except (Unavailable, Rejected) as error:
            line = str(error)
            assert line.startswith(f"{raw.url}: ")
            assert line.isprintable()
            assert len(line) < 400
            raise


# --- All goes well --------------------------------------------------------------------------------


def test_an_answer(run: Run) -> None:
    seen: list[int] = []

    async def play() -> Answer:
        async with FakeServer(PROFILE, 2) as server, Client(server.url) as client:
            await client.check()
            assert await client.models() == ["fake"]
            assert await client.healthy()
            answer = await client.generate(prompt_ids(1, 20), 5, seen.append)
            counters = await client.counters()
            assert counters == server.counters
            assert (counters["prompt_tokens_total"], counters["tokens_predicted_total"]) == (20, 5)
            return answer

    answer = run(play())
    assert seen == [1, 2, 3, 4, 5]
    assert (answer.prompt_tokens, answer.output_tokens) == (20, 5)
    assert len(answer.token_s) == 5
    times = (answer.sent_s, *answer.token_s, answer.end_s)
    assert all(before <= after for before, after in pairwise(times))
    assert answer.first_token_s == answer.token_s[0]
    assert answer.end_s - answer.sent_s >= 0.049


def test_the_times_are_those_of_the_clock(run: Run) -> None:
    class Counting:
        time = 0.0

        def now(self) -> float:
            self.time += 1
            return self.time

        async def sleep_until(self, time: float) -> None: ...

    async def play() -> Answer:
        async with raw_server(GOOD) as raw, Client(raw.url, clock=Counting()) as client:
            return await client.generate(PROMPT, 2)

    answer = run(play())
    assert answer.sent_s == 1
    assert set(answer.token_s) <= {2.0, 3.0, 4.0}


def test_what_is_asked(run: Run) -> None:
    async def play() -> tuple[list[str], dict[str, Any]]:
        async with raw_server(GOOD) as raw, Client(f"{raw.url}/", model="m") as client:
            await client.generate(PROMPT, 2)
            await client.generate(PROMPT, 2)
            return raw.heads, json.loads(raw.bodies[-1])

    heads, body = run(play())
    assert [head.split(" HTTP")[0] for head in heads] == [
        "GET /v1/models",  # once
        "POST /v1/completions",
        "POST /v1/completions",
    ]
    assert body == {
        "model": "m",
        "prompt": PROMPT,
        "max_tokens": 2,
        "min_tokens": 2,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": False,
    }
    assert "connection: close" in heads[-1].lower()


LAYOUTS = {
    "vllm": token() + token(why="length") + usage(3, 2) + DONE,
    "llama.cpp": token()
    + token()
    + event(
        choices=[{"text": "", "index": 0, "finish_reason": "length"}],
        usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    )
    + DONE,
    "without texts": token("") + token("", "length") + usage(3, 2) + DONE,
    "with comments": b": ping\n\nevent: x\nid: 3\nretry: 5\n\n"
    + token()
    + b":\n\n"
    + token()
    + usage(3, 2)
    + DONE,
    "with a usage each": b"".join(
        event(choices=[{"text": " a"}], usage={"prompt_tokens": 3, "completion_tokens": number})
        for number in (1, 2)
    )
    + DONE,
    "crlf": (token() + token() + usage(3, 2) + DONE).replace(b"\n", b"\r\n"),
    "without spaces": (token() + token() + usage(3, 2) + DONE).replace(b"data: ", b"data:"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_streams_of_all_servers(run: Run, layout: str) -> None:
    assert len(run(ask(stream(LAYOUTS[layout]))).token_s) == 2


def test_tokens_that_come_in_one_event_are_counted_by_the_usage(run: Run) -> None:
    answer = run(ask(stream(token() + token(why="length") + usage(3, 5) + DONE), tokens=5))
    assert (answer.output_tokens, len(answer.token_s)) == (5, 2)


@given(st.sampled_from(list(LAYOUTS)), st.lists(st.integers(0, 600), max_size=8))
def test_a_stream_may_be_cut_into_parts_anywhere(layout: str, cuts: list[int]) -> None:
    whole = LAYOUTS[layout]
    seen: list[int] = []
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    got = module._Stream(2, seen.append)
    for now, (begin, end) in enumerate(pairwise(places)):
        if not got.done:
            got.take(whole[begin:end], now)
    got.check(3)
    assert seen == [1, 2]
    assert got.token_s == sorted(got.token_s)


def test_requests_at_once_have_connections_of_their_own(run: Run) -> None:
    async def play() -> None:
        async with FakeServer(PROFILE, 8) as server, Client(server.url) as client:
            await client.check()
            tasks = [client.generate(prompt_ids(key, 5 + key), 4 + key) for key in range(8)]
            answers = await asyncio.gather(*tasks)
            assert [one.prompt_tokens for one in answers] == list(range(5, 13))
            assert [one.output_tokens for one in answers] == list(range(4, 12))
            assert server.counters["requests_processing_max"] == 8
            assert server.counters["requests_deferred_total"] == 0

    run(play())


# --- Faults of a server ---------------------------------------------------------------------------

FAULTS = {
    "refuse": (Unavailable, "disconnected"),
    "error": (Unavailable, "an error in the stream: a fault that was asked for"),
    "context": (Rejected, "its context must hold the prompts and outputs of all slots"),
    "cut": (Unavailable, "the stream was cut after 2 of 4 tokens"),
    "silent": (Unavailable, "no answer within 0.5 s"),
    "freeze": (Unavailable, "no answer within 0.5 s"),
    "die": (Unavailable, "cut"),
    "garbage": (Rejected, "an event of its stream is no JSON: {no json"),
    "few": (Rejected, "it generated 3 tokens, 4 were asked for: is its context too small?"),
    "usage": (Rejected, "it counts 21 tokens of a prompt of 20"),
    "nousage": (Rejected, "the stream ends without a usage"),
    "400": (Rejected, "/v1/completions: status 400: a fault that was asked for"),
    "404": (Rejected, "status 404"),
    "408": (Unavailable, "status 408"),
    "429": (Unavailable, "status 429"),
    "500": (Unavailable, "status 500"),
    "503": (Unavailable, "status 503"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_hits_one_request_and_not_the_next(run: Run, kind: str) -> None:
    expected, what = FAULTS[kind]

    async def play() -> None:
        fault = Fault(kind, first=1, after=2, seconds=60)
        hangs = kind in ("silent", "freeze")
        async with (
            FakeServer(PROFILE, 2, faults=[fault]) as server,
            Client(server.url, timeout_s=0.5 if hangs else 30) as client,
            Client(server.url) as patient,
        ):
            await patient.generate(prompt_ids(0, 20), 4)
            await client.check()
            seen: list[int] = []
            with pytest.raises(expected) as raised:
                await client.generate(prompt_ids(1, 20), 4, seen.append)
            assert str(raised.value).startswith(f"{server.url}: ")
            assert what in str(raised.value)
            if kind in ("error", "context", "cut", "silent", "freeze", "die", "garbage"):
                assert seen == [1, 2]
            if kind == "freeze":
                assert not await client.healthy()
                server.thaw()
            if kind == "die":
                with pytest.raises(Unavailable, match="Connection refused"):
                    await client.generate(prompt_ids(2, 20), 4)
                assert not await client.healthy()
                await server.come_back()
            assert (await patient.generate(prompt_ids(3, 20), 4)).output_tokens == 4
            assert await patient.healthy()

    run(play())


def test_a_server_that_starts_slowly(run: Run) -> None:
    async def play() -> None:
        slow = Fault("loading", after=0, seconds=0.3)
        async with FakeServer(PROFILE, 2, faults=[slow]) as server, Client(server.url) as client:
            assert not await client.healthy()
            for request in (client.check(), client.models(), client.counters()):
                with pytest.raises(Unavailable, match="status 503: Loading model"):
                    await request
            while not await client.healthy():
                await asyncio.sleep(0.02)
            assert (await client.generate(prompt_ids(3, 20), 2)).output_tokens == 2

    run(play())


def test_a_request_that_is_cancelled_closes_its_connection(run: Run) -> None:
    async def play() -> None:
        async with FakeServer(PROFILE, 2) as server, Client(server.url) as client:
            began = asyncio.Event()
            task = asyncio.create_task(
                client.generate(prompt_ids(0, 20), 5000, lambda _: began.set())
            )
            await began.wait()
            assert server.counters["requests_processing"] == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(100):  # seconds, where two iterations would do
                if server.counters["requests_processing"] == 0:
                    break
                await asyncio.sleep(0.05)
            assert server.counters["requests_processing"] == 0
            assert server.counters["tokens_predicted_total"] < 1000

    run(play())


def test_a_raising_callback_is_not_taken_for_a_fault(run: Run) -> None:
    async def play() -> None:
        def fails(_: int) -> None:
            raise KeyError("mine")

        async with FakeServer(PROFILE, 2) as server, Client(server.url) as client:
            with pytest.raises(KeyError, match="mine"):
                await client.generate(prompt_ids(0, 20), 5, fails)

    run(play())


# --- What is no LLM server ------------------------------------------------------------------------

BAD = {
    "a web page": (page(b"<html>", kind="text/html"), Rejected, "gives text/html: no LLM server"),
    "json instead of a stream": (page(b"{}"), Rejected, "gives application/json"),
    "no http": (b"SSH-2.0-OpenSSH_9.2\r\n", Rejected, "its answer is no HTTP"),
    "a header without end": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 10**6, Rejected, ""),
    "closed at once": (b"", Unavailable, "disconnected"),
    "closed in the header": (b"HTTP/1.1 200 OK\r\nConte", Unavailable, ""),
    "a redirect": (
        page(b"", "307 Temporary Redirect\r\nLocation: http://127.0.0.1:9/"),
        Rejected,
        "status 307, redirects are not followed",
    ),
    "a stream of nothing": (stream(), Unavailable, "cut after 0 of 2 tokens"),
    "cut in a line": (stream(token() + b'data: {"choi'), Unavailable, "cut after 1 of 2"),
    "cut after the usage": (stream(token() + usage(3, 2)), Unavailable, "cut after 1"),
    "no events": (stream(b"hello\n\n"), Rejected, "its stream is none of events: hello"),
    "no objects": (stream(b"data: 5\n\n"), Rejected, "is no object: 5"),
    "nothing but nests": (stream(b"data: " + b"[" * 10**5 + b"\n"), Rejected, "is no JSON"),
    "no text": (stream(b"data: \xff\xfe\n\n"), Rejected, "is no JSON"),
    "terminal codes": (stream(b"\x1b[2J\x07\n\n"), Rejected, "\\x1b[2J\\x07"),
    "a long error": (page(b"x" * 10**5, "400 Bad Request"), Rejected, "status 400: xxx"),
    "an error as text": (page(b"no way", "500 Oops"), Unavailable, "status 500: no way"),
    "an error as a list": (page(b"[1]", "422 No"), Rejected, "status 422: [1]"),
    "an error without words": (page(b"", "403 No"), Rejected, "status 403"),
    "errors in the stream": (
        stream(event(error={"code": 400, "message": "bad\nprompt"})),
        Rejected,
        "an error in the stream: bad prompt",
    ),
    "too many requests": (
        stream(event(error={"code": 429, "message": "later"})),
        Unavailable,
        "later",
    ),
    "an error of no code": (stream(event(error="what")), Unavailable, "stream: what"),
    "an error of a wrong code": (stream(event(error={"code": "x"})), Unavailable, ""),
    "a usage of words": (stream(token() + usage("3", "2") + DONE), Rejected, "without a usage"),
    "a usage of halves": (stream(token() + usage(3, 1.5) + DONE), Rejected, "without a usage"),
    "a usage that is a list": (stream(token() + event(usage=[1]) + DONE), Rejected, "usage"),
    "too many tokens": (stream(token() + usage(3, 3) + DONE), Rejected, "it generated 3 tokens"),
    "a bos": (stream(token() + usage(4, 2) + DONE), Rejected, "counts 4 tokens of a prompt of 3"),
    "no tokens": (stream(usage(3, 2) + DONE), Rejected, "a usage and no token"),
    "a prefix cache": (
        stream(token() + usage(3, 2, prompt_tokens_details={"cached_tokens": 2}) + DONE),
        Rejected,
        "2 prompt tokens came from its prefix cache",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_answer_is_told_in_a_line(run: Run, case: str) -> None:
    said, expected, what = BAD[case]
    with pytest.raises(expected) as raised:
        run(ask(said))
    assert what in str(raised.value)


ENDLESS = {
    "a stream": ("200 OK", "text/event-stream", b"data: "),
    "a page": ("200 OK", "application/json", b""),
    "an error": ("400 Bad Request", "text/plain", b""),
}


@pytest.mark.parametrize("where", ENDLESS)
def test_what_never_ends_does_not_fill_the_memory(run: Run, where: str) -> None:
    status, kind, begin = ENDLESS[where]
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + begin)
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    with pytest.raises(Rejected, match=r"more than \d+ bytes"):
        run(ask(endless) if where == "a stream" else ask(GOOD, endless))
    assert sent < 50e6


def test_events_without_end_are_ended_by_the_time_out(run: Run) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(stream())
        while True:
            writer.write(token() * 10)
            await writer.drain()

    with pytest.raises(Unavailable, match=r"no answer within 0\.3 s"):
        run(ask(endless, timeout_s=0.3))


MODEL_PAGES = {
    "none": (page(b'{"data": []}'), "lists no models: no LLM server"),
    "no json": (page(b"<>"), "lists no models"),
    "no names": (page(b'{"data": [{"id": 5}]}'), "lists no models"),
    "no list": (page(b'{"data": 5}'), "lists no models"),
    "a web page": (page(b"<html>", kind="text/html"), "/v1/models gives text/html"),
    "not found": (page(b"nothing here", "404 Not Found"), "status 404: nothing here"),
    "several": (page(b'{"data": [{"id": "a"}, {"id": "b"}]}'), "one is to be chosen from a, b"),
}


@pytest.mark.parametrize("case", MODEL_PAGES)
def test_check_tells_what_is_no_llm_server(run: Run, case: str) -> None:
    models, what = MODEL_PAGES[case]

    async def play() -> None:
        async with raw_server(GOOD, models) as raw, Client(raw.url) as client:
            for request in (client.check(), client.generate(PROMPT, 2)):
                with pytest.raises(Rejected) as raised:
                    await request
                assert str(raised.value).startswith(f"{raw.url}: ")
                assert what in str(raised.value)

    run(play())


def test_a_model_is_chosen(run: Run) -> None:
    two = page(b'{"data": [{"id": "a"}, {"id": "b"}]}')

    async def play() -> None:
        async with raw_server(GOOD, two) as raw:
            async with Client(raw.url, model="b") as client:
                await client.check()
                await client.generate(PROMPT, 2)
                assert json.loads(raw.bodies[-1])["model"] == "b"
            async with Client(raw.url, model="c\x1b") as client:
                with pytest.raises(Rejected, match=r"model: unknown 'c\\x1b', it has a, b$"):
                    await client.check()

    run(play())


def test_counters_of_servers_that_have_none(run: Run) -> None:
    async def counters(answer: bytes) -> dict[str, float]:
        async with raw_server(GOOD, answer) as raw, Client(raw.url) as client:
            return await client.counters()

    text = b"# HELP x\nvllm:n 5\nllamacpp:a 3\nllamacpp:b x\nllamacpp:c\nllamacpp:d 1e3\n"
    assert run(counters(page(text, kind="text/plain; version=0.0.4"))) == {"a": 3, "d": 1000}
    assert run(counters(page(b"no", "404 Not Found"))) == {}
    assert run(counters(page(b"off", "501 Not Implemented"))) == {}
    with pytest.raises(Unavailable, match="/metrics: status 500"):
        run(counters(page(b"no", "500 Oops")))


NO_URLS = """
127.0.0.1:80
ftp://127.0.0.1
http://
http://a b
http://a:x
http://a:0
http://a:70000
http://user:word@a
http://a/?q=1
http://a/#f
http://[::1
"""


@pytest.mark.parametrize("url", [*NO_URLS.split("\n"), "http://a\n", None, 5, b"http://a"])
def test_what_is_no_url(url: Any) -> None:
    with pytest.raises(Rejected, match=r"^url: .* is not like http://127\.0\.0\.1:8001$"):
        Client(url)


def test_urls_are_tidied() -> None:
    assert checked_url("http://h:1/") == "http://h:1"
    assert checked_url("https://h/a/") == "https://h/a"


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "5", True])
def test_what_is_no_time_out(timeout_s: Any) -> None:
    with pytest.raises(Rejected, match="timeout_s: .* is not a time above 0"):
        Client("http://127.0.0.1:1", timeout_s=timeout_s)


@pytest.mark.parametrize(("prompt", "tokens"), [([], 1), ([1], 0), ([1], -1), ([1], 1.5)])
def test_what_cannot_be_asked(run: Run, prompt: list[int], tokens: Any) -> None:
    async def play() -> None:
        async with Client("http://127.0.0.1:1") as client:
            with pytest.raises(Rejected, match="both must be at least 1"):
                await client.generate(prompt, tokens)

    run(play())


def test_nobody_listens(run: Run, unused_port: int) -> None:
    async def play() -> None:
        async with Client(f"http://127.0.0.1:{unused_port}") as client:
            for request in (client.generate(PROMPT, 1), client.check(), client.counters()):
                with pytest.raises(Unavailable, match=f":{unused_port}: Connection refused$"):
                    await request
            assert not await client.healthy()

    run(play())


def test_https_of_a_server_that_has_none(run: Run) -> None:
    async def play() -> None:
        async with (
            FakeServer(PROFILE, 1) as server,
            Client(server.url.replace("http:", "https:")) as client,
        ):
            with pytest.raises(
                Rejected, match=r"^https://127\.0\.0\.1:\d+: no secure connection: "
            ):
                await client.generate(PROMPT, 1)

    run(play())


def test_a_client_is_entered_first(run: Run) -> None:
    with pytest.raises(RuntimeError, match="within `async with`"):
        run(Client("http://127.0.0.1:1").generate(PROMPT, 1))


# --- Nothing goes anywhere else -------------------------------------------------------------------


def test_nothing_is_sent_but_to_the_url(
    run: Run, sockets: SocketGuard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def play() -> None:
        async with raw_server(page(MODELS)) as trap, FakeServer(PROFILE, 2) as server:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, trap.url)
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            netrc = tmp_path / "netrc"
            netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
            netrc.chmod(0o600)
            monkeypatch.setenv("NETRC", str(netrc))
            async with Client(server.url) as client:
                await client.check()
                await client.generate(prompt_ids(0, 5), 2)
                await client.counters()
                await client.healthy()
            assert sockets.reached == {("127.0.0.1", server.port)}
            away = page(b"", f"302 Found\r\nLocation: {trap.url}/v1/completions")
            async with raw_server(away, away) as elsewhere, Client(elsewhere.url) as client:
                with pytest.raises(Rejected, match="redirects are not followed"):
                    await client.check()
                assert not any("authorization" in head.lower() for head in elsewhere.heads)
            assert trap.heads == []

    run(play())


def test_the_guard_notices(run: Run) -> None:
    from support.sockets import guarded_sockets

    async def play() -> None:
        async with Client("http://llm.example:80", timeout_s=5) as client:
            with pytest.raises(Unavailable):
                await client.check()

    with pytest.raises(AssertionError), guarded_sockets() as guard:
        run(play())
    assert guard.refused == {"llm.example"}


# --- Without the extra ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Client", "FakeServer", "serving"])
def test_where_the_extra_is_missing(name: str) -> None:
    program = (
        "import sys; sys.modules.update(aiohttp=None, gguf=None, xllamacpp=None)\n"
        "from llmsched_gym.testbed import WallClock, prompt_ids\n"
        f"from llmsched_gym.testbed import {name}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        'ImportError: the testbed needs the extra: pip install "llmsched-gym[testbed]"'
    )

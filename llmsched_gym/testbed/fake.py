"""A server that computes nothing: it sleeps as long as a latency profile says, and speaks the API.

Its times are exact, whatever the load of the machine, but for the moment that a sleep ends late;
deadlines are absolute, so that this does not add up. So it tells whether a client, a driver and the
simulator agree, and what they do when something goes wrong, on a machine without a GPU.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from types import TracebackType
from typing import Any, NoReturn

from llmsched_gym.checks import is_whole
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.testbed.child import end_quietly, end_with_stdin, ready_line, started
from llmsched_gym.testbed.extra import NEEDED
from llmsched_gym.testbed.faults import OF_THE_SERVER, Fault
from llmsched_gym.workload.inputs import shown

try:
    from aiohttp import web
except ImportError as error:
    raise ImportError(NEEDED) from error

MODEL = "fake"  # the name of its model
LARGEST_BODY = 2**26  # bytes

# --- The engine -----------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Sequence:
    """A request on an engine.

    Parameters
    ----------
    prompt, output : tokens.
    prefilled : prompt tokens that iterations have taken.
    tokens : generated so far.
    gone : whether nobody wants it any more; it leaves at the next boundary.
    """

    prompt: int
    output: int
    prefilled: int = 0
    tokens: int = 0
    gone: bool = False

    @property
    def done(self) -> bool:
        """Whether all its tokens are generated."""
        return self.tokens >= self.output


class Engine:
    """An LLM engine of a latency profile, iteration by iteration; it knows no clock.

    Its iterations are those of :mod:`llmsched_gym.cluster.engines`, with a prefill of either kind.
    Whoever comes while one is in flight waits for its end, as late joins do there: whatever the
    profile says of them, a server has begun the next iteration before anybody hears of the last.
    Beyond the slots, and beyond the KV cache, requests wait in the order in which they came.

    Parameters
    ----------
    profile : what iterations take.
    slots : sequences that run at once, 1 or more.

    Raises
    ------
    ValueError
        if there are no slots, or so many that the token budget leaves nothing for prompts.
    """

    def __init__(self, profile: LatencyProfile, slots: int) -> None:
        if not is_whole(slots, 1):
            raise ValueError(f"slots: {shown(slots)} is not a whole number above 0")
        if profile.token_budget is not None and profile.token_budget <= slots:
            raise ValueError(
                f"token_budget: {profile.token_budget} tokens an iteration leave none for prompts "
                f"beside {slots} decoding sequences"
            )
        self.profile, self.slots = profile, slots
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.counters = dict.fromkeys(
            ("prompt_tokens_total", "tokens_predicted_total", "n_decode_total"), 0
        )
        self.counters |= {"requests_deferred_total": 0, "requests_processing_max": 0}
        self._busy_slots = 0  # summed over iterations
        self._chunks: list[tuple[Sequence, int]] = []  # of prompts, in the iteration in flight
        self._decoding: list[Sequence] = []  # in the iteration in flight

    def submit(self, sequence: Sequence) -> None:
        """Let a sequence join at the next boundary, or when there is room."""
        wanted = sum(not one.gone for one in (*self.running, *self.waiting))
        self.counters["requests_deferred_total"] += wanted >= self.slots
        self.waiting.append(sequence)

    def begin(self) -> int:
        """Begin an iteration with all that are there; its ticks, or 0 if nobody is."""
        self._admit()
        fresh = [one for one in self.running if one.tokens == 0]
        self._decoding = [one for one in self.running if one.tokens > 0]
        if not self.profile.mixed:
            self._chunks = [(one, one.prompt) for one in fresh]
            self._decoding = [] if fresh else self._decoding
        else:
            assert self.profile.token_budget is not None
            left = self.profile.token_budget - len(self._decoding)
            self._chunks = []
            for one in fresh:
                chunk = min(one.prompt - one.prefilled, left)
                left -= chunk
                if chunk:
                    self._chunks.append((one, chunk))
        if not self.running:
            return 0
        self.counters["n_decode_total"] += 1
        self._busy_slots += len(self.running)
        return self._ticks()

    def end(self) -> list[Sequence]:
        """End the iteration; those that have a token more."""
        for one, chunk in self._chunks:
            one.prefilled += chunk
            self.counters["prompt_tokens_total"] += chunk
        ended = [one for one, _ in self._chunks if one.prefilled == one.prompt]
        advanced = [one for one in (*self._decoding, *ended) if not one.gone]
        for one in advanced:
            one.tokens += 1
        self.counters["tokens_predicted_total"] += len(advanced)
        self.running = [one for one in self.running if not one.done and not one.gone]
        return advanced

    def count(self) -> dict[str, float]:
        """Counters by the names of llama.cpp, and two of this engine alone.

        ``requests_deferred_total`` counts requests for which there was no slot when they came,
        ``requests_processing_max`` is the largest number of them that ran at once.
        """
        decodes = self.counters["n_decode_total"]
        return {
            **self.counters,
            "n_busy_slots_per_decode": self._busy_slots / max(decodes, 1),
            "requests_processing": len(self.running),
            "requests_deferred": len(self.waiting),
        }

    def _admit(self) -> None:
        self.running = [one for one in self.running if not one.gone]
        self.waiting = deque(one for one in self.waiting if not one.gone)
        reserved = sum(one.prompt + one.output for one in self.running)
        while self.waiting and len(self.running) < self.slots:
            reserved += self.waiting[0].prompt + self.waiting[0].output
            if reserved > self.profile.kv_capacity_tokens:
                break
            self.running.append(self.waiting.popleft())
        most = max(self.counters["requests_processing_max"], len(self.running))
        self.counters["requests_processing_max"] = most

    def _ticks(self) -> int:
        """Of the iteration that begins."""
        batch = len(self._decoding)
        kv = sum(one.prompt + one.tokens for one in self._decoding)
        if not self._chunks:
            return int(self.profile.decode_ticks(batch, kv))
        tokens = sum(chunk for _, chunk in self._chunks)
        if not self.profile.mixed:
            return int(self.profile.prefill_ticks(tokens))
        p0, e, f, g = self.profile.prefill_coefficients
        _a, c, d = self.profile.decode_coefficients
        pairs = sum(chunk * (2 * one.prefilled + chunk) for one, chunk in self._chunks)
        return math.floor(max(p0, e + f * tokens + g * pairs) + 0.5) + c * batch + d * kv


# --- The server -----------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Asked(Sequence):
    """A request and the way to its handler."""

    came: asyncio.Queue[int] = field(default_factory=asyncio.Queue)


class FakeServer:
    """An engine behind the API of LLM servers, as an async context manager in this event loop.

    It has ``/v1/completions`` (streaming, token ids), ``/v1/models``, ``/health`` and ``/metrics``.

    Parameters
    ----------
    profile, slots : of its engine, see :class:`Engine`.
    faults : what goes wrong; more may be appended to ``.faults`` at any time.
    port : on 127.0.0.1, default any free one.

    Raises
    ------
    ValueError
        if there cannot be such an engine.
    OSError
        on entering, if the port is taken.
    """

    def __init__(
        self, profile: LatencyProfile, slots: int, *, faults: Iterable[Fault] = (), port: int = 0
    ) -> None:
        self.engine = Engine(profile, slots)
        self.faults = list(faults)
        self.port = port
        self._requests = 0  # for tokens
        self._work = asyncio.Event()
        self._awake = asyncio.Event()  # unless frozen
        self._awake.set()
        self._loading_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._iterations: asyncio.Task[None] | None = None
        self._site: web.TCPSite | None = None
        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def counters(self) -> dict[str, float]:
        """As in ``/metrics``, see :meth:`Engine.count`."""
        return self.engine.count()

    async def __aenter__(self) -> FakeServer:
        await self._runner.setup()
        try:
            await self._listen()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._iterations = self._spawn(self._run())
        for fault in self.faults:
            if fault.kind in OF_THE_SERVER and fault.first == fault.after == 0:
                await self._strike(fault)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._hang_up()
        await self._runner.cleanup()

    async def die(self) -> None:
        """Die as after SIGKILL: every stream ends, nobody listens, and all it knew is lost."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self._hang_up()
        if self._iterations is not None:
            self._iterations.cancel()
        self.engine = Engine(self.engine.profile, self.engine.slots)
        self._iterations = self._spawn(self._run())

    async def come_back(self) -> None:
        """Listen on the same port again after :meth:`die`."""
        if self._site is None:
            await self._listen()

    def load(self, seconds: float) -> None:
        """Answer with 503 for some time, as a server that loads its model."""
        self._loading_until = asyncio.get_running_loop().time() + seconds

    def freeze(self) -> None:
        """Stand still as after SIGSTOP: who connects is not refused, but nothing comes."""
        self._awake.clear()

    def thaw(self) -> None:
        """Go on after :meth:`freeze`."""
        self._awake.set()

    async def _listen(self) -> None:
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self._site, self.port = site, self._runner.addresses[0][1]

    def _hang_up(self) -> None:
        for connection in list(self._runner.server.connections if self._runner.server else ()):
            connection.force_close()

    def _spawn(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _strike(self, fault: Fault) -> None:
        """Begin what hits the whole server, and have it end in time."""
        if fault.kind == "loading":
            self.load(fault.seconds)
            return
        if fault.kind == "freeze":
            self.freeze()
        self._spawn(self._recover(fault))
        if fault.kind == "die":
            await self.die()

    async def _recover(self, fault: Fault) -> None:
        await asyncio.sleep(fault.seconds)
        if fault.kind == "freeze":
            self.thaw()
        else:
            await self.come_back()

    async def _run(self) -> None:
        """The engine's iterations, each until its deadline."""
        loop = asyncio.get_running_loop()
        while True:
            await self._work.wait()
            self._work.clear()
            deadline, engine = loop.time(), self.engine
            while ticks := engine.begin():
                deadline += ticks / TICKS_PER_SECOND
                await asyncio.sleep(max(0.0, deadline - loop.time()))
                if not self._awake.is_set():
                    since = loop.time()
                    await self._awake.wait()
                    deadline += loop.time() - since
                for sequence in engine.end():
                    if isinstance(sequence, _Asked):
                        sequence.came.put_nowait(sequence.tokens)

    # --- Requests ---------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        await self._awake.wait()
        return _failed(503, _LOADS) if self._loads else web.json_response({"status": "ok"})

    async def _models(self, request: web.Request) -> web.Response:
        await self._awake.wait()
        listed = {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "us"}]}
        return _failed(503, _LOADS) if self._loads else web.json_response(listed)

    async def _metrics(self, request: web.Request) -> web.Response:
        await self._awake.wait()
        lines = [f"llamacpp:{name} {value}\n" for name, value in self.counters.items()]
        return _failed(503, _LOADS) if self._loads else web.Response(text="".join(lines))

    @property
    def _loads(self) -> bool:
        return asyncio.get_running_loop().time() < self._loading_until

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        number = self._requests
        self._requests += 1
        fault = next((one for one in self.faults if one.hits(number)), None)
        if fault is not None and fault.kind in OF_THE_SERVER and fault.after == 0:
            if number:  # else it began with the server
                await self._strike(fault)
            fault = None
        await self._awake.wait()
        if self._loads:
            return _failed(503, _LOADS)
        if fault is not None and fault.status:
            return _failed(fault.status, _SAID["error"])
        if fault is not None and fault.kind == "refuse" and request.transport is not None:
            request.transport.close()
            return web.Response()  # which nobody hears
        try:
            asked = self._sequence(await request.json())
        except (ValueError, TypeError, KeyError) as error:
            return _failed(400, str(error))
        except LookupError as error:
            return _failed(404, str(error))
        output = asked.output
        if fault is not None and fault.kind == "few":
            asked.output = max(1, output - 1)
        self.engine.submit(asked)
        self._work.set()
        try:
            return await self._stream(request, asked, output, fault)
        except ConnectionError:  # nobody listens any more
            return web.Response()
        finally:
            asked.gone = True

    def _sequence(self, body: Any) -> _Asked:
        """What a request asks for; LookupError for an unknown model, other errors else."""
        if body["model"] != MODEL:
            raise LookupError(f"the model {shown(body['model'])} does not exist")
        prompt, output = body["prompt"], body["max_tokens"]
        if body.get("stream") is not True:
            raise ValueError("only streams are served")
        if not isinstance(prompt, list) or not prompt or not all(is_whole(i, 0) for i in prompt):
            raise ValueError("the prompt is no list of token ids")
        if not is_whole(output, 1):
            raise ValueError("max_tokens is not a whole number above 0")
        most = self.engine.profile.kv_capacity_tokens
        if len(prompt) + output > most:
            raise ValueError(f"prompt and output are longer than the context of {most} tokens")
        return _Asked(len(prompt), output)

    async def _stream(
        self, request: web.Request, asked: _Asked, output: int, fault: Fault | None
    ) -> web.StreamResponse:
        """Pass the tokens on, as they come."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        tokens = 0
        while True:
            if fault is not None and fault.after == tokens and await self._ends(response, fault):
                return response
            if tokens == asked.output:
                break
            tokens = await asked.came.get()
            why = "length" if tokens == asked.output else None
            await response.write(_event(choices=[_choice(why)]))
        usage = {"prompt_tokens": asked.prompt, "completion_tokens": asked.output}
        if fault is not None and fault.kind == "few":
            usage["completion_tokens"] = output - 1
        if fault is not None and fault.kind == "usage":
            usage["prompt_tokens"] += 1
        if fault is None or fault.kind != "nousage":
            await response.write(_event(choices=[], usage=usage))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _ends(self, response: web.StreamResponse, fault: Fault) -> bool:
        """Do what goes wrong within a stream; whether that is its end."""
        if fault.kind in OF_THE_SERVER:
            await self._strike(fault)
        elif fault.kind in ("error", "context"):
            await response.write(_event(error={"code": 500, "message": _SAID[fault.kind]}))
        elif fault.kind == "garbage":
            await response.write(b"data: {no json\n\n")
        elif fault.kind == "silent":
            await asyncio.Event().wait()
        return fault.kind in ("error", "context", "cut")


def _failed(status: int, why: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": why}}, status=status)


_LOADS = "Loading model"  # as llama.cpp says it
_SAID = {"error": "a fault that was asked for", "context": "Context size has been exceeded."}


def _choice(why: str | None) -> dict[str, Any]:
    return {"index": 0, "text": " a", "finish_reason": why}


def _event(**content: Any) -> bytes:
    """An event of a stream, laid out as all servers do."""
    if "error" not in content:
        content = {"id": "fake", "object": "text_completion", "model": MODEL} | content
    return f"data: {json.dumps(content)}\n\n".encode()


# --- In a process of its own ----------------------------------------------------------------------


@contextmanager
def fake_server(
    profile: LatencyProfile, slots: int, *, faults: Iterable[Fault] = (), port: int = 0
) -> Iterator[str]:
    """A :class:`FakeServer` in a process of its own: its URL.

    Raises
    ------
    ValueError
        if there cannot be such an engine.
    NotServed
        if it does not start, as when the port is taken.
    """
    Engine(profile, slots)
    numbers = {one.name: getattr(profile, one.name) for one in fields(profile) if one.compare}
    given = {"profile": numbers, "slots": slots, "faults": [asdict(one) for one in faults]}
    command = ["-c", "from llmsched_gym.testbed.fake import _main; _main()"]
    line = json.dumps(given | {"port": port}) + "\n"
    with started(command, slots, line.encode()) as served:
        yield served.url


def _main() -> None:
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        given = json.loads(stdin.readline())
    end_with_stdin()
    faults = [Fault(**one) for one in given["faults"]]
    run_fake(LatencyProfile(**given["profile"]), given["slots"], faults, given["port"])


def run_fake(profile: LatencyProfile, slots: int, faults: Iterable[Fault], port: int) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C comes, once it has said that it is ready.

    Raises
    ------
    SystemExit
        with one line, if the port is taken.
    ValueError
        if there cannot be such an engine.
    """

    async def serve() -> None:
        async with FakeServer(profile, slots, faults=faults, port=port) as server:
            print(ready_line(server.url, f"fake {profile.name}, {slots} slots"), flush=True)
            await asyncio.Event().wait()

    end_quietly()
    try:
        asyncio.run(serve())
    except OSError as error:
        sys.exit(f"port {port}: {os.strerror(error.errno or 0)}")
    raise AssertionError("it serves for ever")

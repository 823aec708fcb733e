"""What servers can do is found out by having them do it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.errors import InputError
from llmsched_gym.testbed import Answer, Fault, Servers
from llmsched_gym.testbed.probe import _at_once, probe_largest, probe_slots
from support.sampled import sampled
from support.servers import PROFILE, SLOTS, fake_servers


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, ...]]:
    with fake_servers(2) as found:
        yield found


@pytest.mark.parametrize("slots", range(1, SLOTS + 1))
def test_slots_that_are_there(urls: tuple[str, ...], slots: int) -> None:
    probe_slots(Servers(urls, slots))


@sampled("slots", [SLOTS + 1, 3 * SLOTS])
def test_slots_that_are_not(urls: tuple[str, ...], slots: int) -> None:
    with pytest.raises(InputError) as error:
        probe_slots(Servers(urls, slots))
    assert str(error.value) == (
        f"slots: {urls[0]} runs {SLOTS} requests at once, not {slots}: start it with as many "
        "slots, or ask for fewer"
    )


def test_every_server_is_asked(urls: tuple[str, ...]) -> None:
    nowhere = "http://127.0.0.1:9"
    for probe in (probe_slots, lambda servers: probe_largest(servers, 9, 9)):
        with pytest.raises(InputError, match=f"^url: {nowhere}: Connection refused$"):
            probe(Servers((urls[0], nowhere), 2))


def test_the_largest_task_fits_or_does_not(urls: tuple[str, ...]) -> None:
    capacity = PROFILE.kv_capacity_tokens
    probe_largest(Servers(urls, 1), capacity - 20, 20)
    with pytest.raises(InputError, match=rf"^url: {urls[0]}: .*status 400: prompt and output are"):
        probe_largest(Servers(urls, 1), capacity - 20, 21)


def test_a_server_that_writes_too_little_has_too_small_a_context() -> None:
    with fake_servers(1, faults=(Fault("few"),)) as (url,):
        with pytest.raises(InputError) as error:
            probe_largest(Servers((url,), 1), 10, 20)
        line = f"url: {url}: it generated 19 tokens, 20 were asked for: is its context too small?"
        assert str(error.value) == line


SPANS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=8)


@given(SPANS)
def test_how_many_run_at_once(spans: list[tuple[int, int]]) -> None:
    """Counted at each half of a second, in which nothing begins or ends."""
    answers = [Answer(0.0, a, a + n, (float(a), float(a + n)), 1, 2) for a, n in spans]
    counted = max(sum(a < t + 0.5 < a + n for a, n in spans) for t in range(20))
    assert _at_once(answers) == counted

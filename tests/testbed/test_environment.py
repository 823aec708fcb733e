"""What is checked of servers before the first episode: one line each that says what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from llmsched_gym.errors import InputError
from llmsched_gym.testbed.client import Client
from llmsched_gym.testbed.environment import Servers
from support.live import FAST, near, on


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"urls": ()}, "url: at least one server is needed"),
        ({"urls": ("here",)}, "url: 'here' is not like http://127.0.0.1:8001"),
        ({"urls": (None,)}, "url: None is not like"),
        ({"urls": ("http://a:1/", "http://a:1")}, "url: http://a:1 is given twice"),
        ({"slots": 0}, "slots: 0 is not a whole number from 1 to 10,000"),
        ({"slots": True}, "slots: True is not"),
        ({"model": ""}, "model: '' is not the name of a model"),
        ({"timeout_s": 0}, "timeout_s: 0 is not a positive time in seconds"),
        ({"retries": -1}, "retries: -1 is not a whole number of at least 0"),
        ({"tools": "real"}, "tools: unknown 'real', choose from sleep, process"),
    ],
)
def test_servers_check_themselves(given: dict[str, Any], why: str) -> None:
    options: dict[str, Any] = {"urls": ("http://127.0.0.1:8001",), "slots": 4}
    with pytest.raises(InputError) as error:
        Servers(**(options | given))
    assert str(error.value).startswith(why)


def test_one_url_is_enough() -> None:
    assert Servers("http://127.0.0.1:8001/", 4).urls == ("http://127.0.0.1:8001",)


def test_the_cluster_is_as_large_as_the_servers() -> None:
    with on(Servers(("http://127.0.0.1:1", "http://127.0.0.1:2"), 7), FAST) as env:
        assert (env.cluster.engines, env.cluster.max_batch) == (2, 7)
        assert env.cluster.regular_executors == 3


def test_servers_are_checked_before_the_first_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    with near(FAST, 4) as server:
        url = server.url
        with (
            on(Servers(url, 4, model="other")) as env,
            pytest.raises(InputError, match=f"^{url}: model: unknown 'other', it has fake$"),
        ):
            env.reset(seed=0)
        for told, why in (
            ({"slots": 3}, "slots: it has 3, not 4"),
            ({"context": 20}, "its context of 20 tokens is too short for the largest task, of "),
        ):

            async def limits(client: Client, told: dict[str, int] = told) -> dict[str, int]:
                return told

            with monkeypatch.context() as patch, on(Servers(url, 4)) as env:
                patch.setattr(Client, "limits", limits)
                with pytest.raises(InputError, match=f"^{url}: {why}"):
                    env.reset(seed=0)
    with on(Servers(url, 4)) as env, pytest.raises(InputError, match=f"^{url}: Connection refused"):
        env.reset(seed=0)

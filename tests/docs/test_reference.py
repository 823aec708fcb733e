"""The pages of docs/reference/ say all that the code says."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import pytest
import yaml

from llmsched_gym.agents import make_policy
from llmsched_gym.commands.groups import groups, training_groups
from llmsched_gym.env import REWARDS, SCENARIOS, LLMSchedEnv
from support.pages import PAGES, ROOT, text_of

hooks: Any = import_module("reference")
docstrings: Any = import_module("docstrings")
commands: Any = import_module("commands")
api: Any = import_module("api")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    found: dict[str, str] = hooks.pages()
    return found


def nav(entry: Any) -> list[str]:
    """The pages below an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    entries = entry if isinstance(entry, list) else entry.values()
    return [page for one in entries for page in nav(one)]


def test_the_navigation_has_every_page_once(pages: dict[str, str]) -> None:
    listed = nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(listed) == len(set(listed))
    written = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    assert set(listed) == written | set(pages)


def test_options_of_the_environment(pages: dict[str, str]) -> None:
    for name, option in inspect.signature(LLMSchedEnv).parameters.items():
        assert f"| `{name}` | `{option.default}` | " in pages["reference/make.md"]


def test_every_key_of_info_and_observation(pages: dict[str, str]) -> None:
    env = LLMSchedEnv("planning", num_jobs=3, belief="none")
    observation, info = env.reset(seed=0)
    spaces = pages["reference/spaces.md"]
    assert set(re.findall(r"^\| `(\w+)` \| \[", spaces, re.MULTILINE)) == set(observation)
    policy, keys, over = make_policy("fcfs"), set(info), False
    while not over:
        observation, _, terminated, truncated, info = env.step(policy.act(observation))
        over = terminated or truncated
        keys |= set(info)
    said = pages["reference/info.md"].partition("## reset")[0]
    listed = {key for line in re.findall(r"^- (.*?):", said, re.MULTILINE) for key in codes(line)}
    assert listed == keys | {"invalid_action"}


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_reward_has_a_section(pages: dict[str, str]) -> None:
    assert all(f"\n## {name}\n\n" in pages["reference/rewards.md"] for name in REWARDS)


def test_every_option_of_the_commands(pages: dict[str, str]) -> None:
    shown = set(re.findall(r"^\| `([\w.]+)` \|", pages["reference/commands.md"], re.MULTILINE))
    for choices in (groups(), training_groups()):
        for group, nodes in choices.items():
            if group == "scenario":  # sets options of the other groups
                assert all(
                    f"| `{name}` | {one.tests} |" in pages["reference/commands.md"]
                    for name, one in SCENARIOS.items()
                )
                continue
            for node in nodes.values():
                names = node if isinstance(node, dict) else vars(node)
                left = set(names) - {"name", "defaults", "testbed"}
                assert {f"{group}.{name}" for name in left} <= shown
    assert {"baselines", "episodes", "reward", "wandb.mode", "testbed.url", "ray.address"} <= shown
    for path in (ROOT / "llmsched_gym" / "configs").glob("*/*.yaml"):
        assert f"### {path.parent.name}={path.stem}\n" in pages["reference/commands.md"]
    for name in commands.MODULES:
        assert f"usage: python -m llmsched_gym.{name} [-h]" in pages["reference/commands.md"]


def test_every_option_says_what_it_is(pages: dict[str, str]) -> None:
    blank = re.findall(
        r"^\| `([\w.]+)` \| .* \|  \|$", pages["reference/commands.md"], re.MULTILINE
    )
    assert blank == []


def test_comments_are_read() -> None:
    text = "defaults:\n  - x: y\n  - group: null # a or b\n  - _self_\n# of\n# a\na: 1\n"
    text += "b: [x] # beside\nc:\n  d: null # inside\n"
    assert commands.commented(text) == [
        ("group", "null", "a or b"),
        ("a", "1", "of a"),
        ("b", "[x]", "beside"),
        ("c.d", "null", "inside"),
    ]


@pytest.mark.parametrize("room", [*api.ROOMS, *api.MODULES])
def test_every_public_name_has_a_section(pages: dict[str, str], room: str) -> None:
    page = pages[f"reference/api/{room}.md"]
    names = api.public(room)
    assert re.findall(r"^## (\w+) \{", page, re.MULTILINE) == names
    assert len(names) >= 3
    for section in page.split("\n## ")[1:]:
        assert len(section.strip().splitlines()) > 1, section[:80]


def test_docstrings_become_markdown() -> None:
    text = """Does ``it``, see :meth:`Other.call` and :class:`a.b.Other`.

    Like this::

        x = 1

    Parameters
    ----------
    a, b : one
        and more.

    Raises
    ------
    ValueError
        if not.
    """
    assert docstrings.markdown(text) == (
        "Does `it`, see `call()` and `a.b.Other`.\n\nLike this:\n\n```python\nx = 1\n```\n\n"
        "**Parameters**\n\n- `a`, `b`: one and more.\n\n**Raises**\n\n- `ValueError`: if not."
    )


def test_nothing_of_restructured_text_is_left(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        left = re.findall(r":(?:class|func|meth|mod):|(?<!`)``[^`]|^-{4,}$", prose, re.MULTILINE)
        assert left == [], name


def test_images_are_there_and_used() -> None:
    shown = {
        name
        for page in PAGES
        for name in re.findall(r"images/[\w/-]+\.(?:png|svg|gif|mp4)", text_of(page))
    }
    there = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs" / "images").rglob("*")
        if path.is_file() and path.suffix != ".py"
    }
    assert shown == there


def test_what_is_to_be_cited_is_what_citation_cff_says() -> None:
    page = " ".join(text_of("docs/cite.md").split())
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f"version = {{{about['version']}}}" in page
    assert about["authors"][0]["name"] in page
    for paper in about["references"]:
        names = [f"{one['family-names']}, {one['given-names']}" for one in paper["authors"]]
        assert " and ".join(names) in page
        assert paper["title"] in page.replace("{LLM", "LLM").replace("}", "")

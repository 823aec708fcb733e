"""Episodes on servers in files: what is read is what was written, or nothing."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmsched_gym.evaluation.episodes import Episode
from llmsched_gym.evaluation.kept import forget, is_kept, keep, kept
from support.comparing import check_same

LABELS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=90)
TABLES = st.dictionaries(
    st.sampled_from(["jct_s", "job", "application", "retries"]),
    arrays(np.float64, st.integers(0, 4))
    | arrays(np.int64, st.integers(0, 4))
    | arrays(np.dtype("U5"), st.integers(1, 4)),
)
EPISODES = st.builds(
    Episode,
    LABELS,
    st.integers(0, 10**6),
    TABLES,
    st.floats(0, 1e9),
    st.integers(0, 2**40),
    st.floats(0, 1e9),
    st.none() | TABLES,
)


def without_nothing(table: dict[str, Any] | None) -> dict[str, Any] | None:
    """A table of no columns is none."""
    return table or None


@given(EPISODES)
def test_an_episode_is_the_same_after_it_was_kept(
    tmp_path_factory: pytest.TempPathFactory, episode: Episode
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    assert kept(folder, episode.policy, episode.number) is None
    keep(folder, episode)
    assert is_kept(folder, episode.policy, episode.number)
    found = kept(folder, episode.policy, episode.number)
    assert found is not None
    assert (found.policy, found.number) == (episode.policy, episode.number)
    for name in ("makespan_s", "decisions", "decision_us"):
        assert getattr(found, name) == getattr(episode, name)
        assert type(getattr(found, name)) is type(getattr(episode, name))
    check_same(found.jobs, episode.jobs)
    check_same(found.tasks, without_nothing(episode.tasks))
    (path,) = folder.iterdir()
    assert set(path.name) <= {*string.ascii_lowercase, *string.digits, *"._-"}


@given(st.lists(LABELS, min_size=2, max_size=5, unique=True))
def test_every_label_has_a_file_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    for number, label in enumerate(labels):
        keep(folder, Episode(label, 0, {}, float(number), 1, 1.0))
    for number, label in enumerate(labels):
        found = kept(folder, label, 0)
        assert found is not None
        assert found.makespan_s == number
    assert len({path.name.lower() for path in folder.iterdir()}) == len(labels)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04 torn", b"\x93NUMPY"])
def test_a_file_that_is_torn_is_none(tmp_path: Path, content: bytes) -> None:
    keep(tmp_path, Episode("fcfs", 3, {"job": np.arange(9)}, 1.0, 1, 1.0))
    (path,) = tmp_path.iterdir()
    assert path.name == "fcfs_episode3.npz"
    whole = path.read_bytes()
    for torn in (content, whole[:-7], whole[: len(whole) // 2]):
        path.write_bytes(torn)
        assert kept(tmp_path, "fcfs", 3) is None


def test_only_episodes_are_forgotten(tmp_path: Path) -> None:
    keep(tmp_path, Episode("fcfs", 0, {}, 1.0, 1, 1.0))
    (tmp_path / "mine.npz").write_text("")
    (tmp_path / "fcfs_episode0.jsonl").write_text("")
    forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]
    forget(tmp_path / "absent")

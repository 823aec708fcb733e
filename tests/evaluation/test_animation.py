"""The animation: what is in it, how long and how large it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llmsched_gym.agents.base import make_policy
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.evaluation import animation
from llmsched_gym.evaluation.animation import animate
from llmsched_gym.rendering.colours import job_colour

TWO = {"llmsched": make_policy("llmsched"), "fcfs": make_policy("fcfs")}


def environment(jobs: int = 20) -> LLMSchedEnv:
    return LLMSchedEnv("planning", num_jobs=jobs, load=2.0)


def test_it_shows_both_policies_for_fifteen_seconds(tmp_path: Path) -> None:
    path = animate(TWO, environment(), tmp_path / "two.gif", 20)
    assert path.stat().st_size < 3_000_000
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as gif:
        frames, lasts = [], 0
        for number in range(gif.n_frames):  # type: ignore[attr-defined]
            gif.seek(number)
            lasts += gif.info["duration"]
            frames.append(np.array(gif.convert("RGB")))
        assert gif.info["loop"] == 0
    assert 14_000 <= lasts <= 17_000
    upper, lower = np.split(frames[-1][: len(frames[-1]) // 2 * 2], 2)
    for half in (upper, lower):  # the first job, but for the rounding of the palette
        near = np.abs(half.astype(int) - job_colour(0)).max(axis=-1) < 24
        assert near.sum() > 100
    drawn = [(frame.astype(int) != frames[0]).any(axis=-1).sum() for frame in frames]
    assert drawn[0] == 0
    assert drawn[len(drawn) // 2] > drawn[5]
    assert drawn[-1] > 10_000


@pytest.mark.slow
def test_every_frame_of_the_file_is_what_was_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    write = animation._write

    def keep(frames: list[Any], path: Path) -> None:
        drawn.extend(frames)
        write(frames, path)

    monkeypatch.setattr(animation, "_write", keep)
    path = animate(TWO, environment(8), tmp_path / "two.gif", 20)
    with Image.open(path) as gif:
        assert gif.n_frames == len(drawn)  # type: ignore[attr-defined]
        before = np.zeros(())
        for number, frame in enumerate(drawn):
            gif.seek(number)
            found, expected = (np.array(one.convert("RGB")).astype(int) for one in (gif, frame))
            away = np.abs(found - expected).max(axis=-1) > 40
            changed = (expected != before).any(axis=-1)
            assert away.mean() < 0.005, "but for colours of which there is little"
            assert away[changed].mean() < 0.3
            assert found[0, 0].tolist() == [255, 255, 255]
            before = expected


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    one = animate(TWO, environment(5), tmp_path / "1.gif", 10).read_bytes()
    assert animate(TWO, environment(5), tmp_path / "2.gif", 10).read_bytes() == one
    assert animate(TWO, environment(5), tmp_path / "3.gif", 10, seed=1).read_bytes() != one


def test_what_cannot_be_animated_leaves_no_file(tmp_path: Path) -> None:
    env = environment(3)
    with pytest.raises(ValueError, match="^policies: at least one"):
        animate({}, env, tmp_path / "a.gif")
    with pytest.raises(ValueError, match="^time_limit: 0 is not a positive time"):
        animate(TWO, env, tmp_path / "a.gif", 0)
    with pytest.raises(FileNotFoundError):
        animate(TWO, env, tmp_path / "none" / "a.gif", 5)
    assert list(tmp_path.iterdir()) == []

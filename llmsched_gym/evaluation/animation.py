"""Policies beside each other on the same jobs, as an animation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.agents.base import Policy
from llmsched_gym.cluster.timeline import Timeline
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.evaluation.episodes import episode_seeds
from llmsched_gym.files import replacing
from llmsched_gym.rendering.canvas import Canvas
from llmsched_gym.rendering.colours import FAINT, INK, PAPER, job_colour
from llmsched_gym.rendering.lanes import LABELS, draw_lanes

if TYPE_CHECKING:
    from PIL.Image import Image

WIDTH, MARGIN, HEADER, QUEUE = 960, 16, 34, 20  # pixels
TALLEST, LOWEST, A_LANE = 270, 130, 11  # pixels: of the lanes of one policy, and of a lane
FRAMES, FRAME_MS, LAST_MS = 120, 110, 1500
COLOURS = 64


def timelines(
    policies: Mapping[str, Policy],
    env: LLMSchedEnv,
    seconds: float = 120.0,
    *,
    seed: int = 0,
    episode: int = 0,
) -> dict[str, Timeline]:
    """Who ran where and when in the first ``seconds`` of an episode, by the names of the policies.

    See :func:`animate`; :func:`llmsched_gym.rendering.gantt` draws them.
    """
    if not policies:
        raise ValueError("policies: at least one is needed")
    env_seed, policy_seed = episode_seeds(seed, episode)
    found = {}
    for name, policy in policies.items():
        policy.reset(policy_seed)
        found[name] = _play(env, policy, env_seed, seconds)
    return found


def animate(
    policies: Mapping[str, Policy],
    env: LLMSchedEnv,
    path: str | os.PathLike[str],
    seconds: float = 120.0,
    *,
    seed: int = 0,
    episode: int = 0,
) -> Path:
    """Write a GIF of the first ``seconds`` of an episode, one policy above the other, 15 s long.

    Parameters
    ----------
    policies
        By the names to show. They are new or have no memory.
    env
        Who plays; its episode is another one afterwards.
    path
        Of the file, which is written whole or not at all.
    seconds
        Of simulated time, shorter if all policies are done before.
    seed, episode
        Say which jobs come, as in an evaluation.

    Returns
    -------
    The path.

    Raises
    ------
    ValueError
        if there is no policy or ``seconds`` is no positive time.
    OSError
        if the file cannot be written.
    """
    shown = timelines(policies, env, seconds, seed=seed, episode=episode)
    end_s = max(one.now_s for one in shown.values())
    times = np.linspace(0, end_s, FRAMES).tolist()
    frames = [_frame(shown, time_s, end_s) for time_s in times]
    target = Path(path)
    with replacing(target) as part:
        _write(frames, part)
    return target


def _write(frames: list[Image], path: Path) -> None:
    """As a GIF, in the colours of the last frame; what stays as it was is transparent."""
    from PIL import Image

    palette = frames[-1].quantize(COLOURS)
    colours = [255 if part > 247 else part for part in palette.getpalette() or ()]  # white is white
    pixels = [
        np.asarray(frame.quantize(palette=palette, dither=Image.Dither.NONE)) for frame in frames
    ]
    images = []
    for before, now in zip([None, *pixels], pixels, strict=False):
        changed = now if before is None else np.where(now == before, COLOURS, now)
        images.append(Image.fromarray(changed.astype(np.uint8)))
        images[-1].putpalette([*colours[: 3 * COLOURS], 0, 0, 0])
    images[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=[FRAME_MS] * (len(images) - 1) + [LAST_MS],
        loop=0,
        transparency=COLOURS,
        disposal=1,
        optimize=False,
    )


def _play(env: LLMSchedEnv, policy: Policy, seed: int, seconds: float) -> Timeline:
    observation, _ = env.reset(seed=seed, options={"time_limit": seconds})
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(policy.act(observation))
        over = terminated or truncated
    return env.timeline()


def _frame(timelines: Mapping[str, Timeline], time_s: float, end_s: float) -> Image:
    """All policies at a moment, as a picture."""
    height = max(_lanes_height(one) for one in timelines.values())
    block = HEADER + height + QUEUE
    canvas = Canvas(WIDTH, MARGIN + len(timelines) * (block + MARGIN))
    for number, (name, timeline) in enumerate(timelines.items()):
        top = MARGIN + number * (block + MARGIN)
        now = timeline.at(time_s)
        _draw_header(canvas, name, now, top, end_s)
        corners = (MARGIN, top + HEADER, WIDTH - MARGIN - 12, top + HEADER + height)
        draw_lanes(canvas, now, corners, (0.0, end_s))
        _draw_queue(canvas, now.in_system, top + HEADER + height + 8)
    return canvas.image


def _lanes_height(timeline: Timeline) -> int:
    lanes = timeline.engines * timeline.slots + timeline.regular_executors
    return max(LOWEST, min(TALLEST, 60 + A_LANE * lanes))


def _draw_header(canvas: Canvas, name: str, now: Timeline, top: float, end_s: float) -> None:
    jct_s = now.jct_s
    mean = f"mean completion time {jct_s.mean():,.1f} s" if len(jct_s) else ""
    canvas.text(MARGIN, top + 10, name, INK, 20, room=260)
    texts = (
        (300, f"{min(now.now_s, end_s):,.0f} s"),
        (380, f"{len(jct_s)} jobs done"),
        (500, f"{len(now.in_system)} in the system"),
    )
    for x, text in texts:
        canvas.text(x, top + 11, text, INK, 15)
    canvas.text(WIDTH - MARGIN - 12, top + 11, mean, INK, 15, "right")


def _draw_queue(canvas: Canvas, jobs: NDArray[np.int64], middle: float) -> None:
    """A square for each job in the system."""
    canvas.text(MARGIN + LABELS - 8, middle, "jobs", FAINT, 12, "right")
    left = MARGIN + LABELS
    room = (WIDTH - MARGIN - 12 - left) // 13
    for place, job in enumerate(jobs[:room].tolist()):
        colour = job_colour(job)
        canvas.mark(left + 6 + 13 * place, middle, 11, False, colour, PAPER)

"""The render modes of all environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.rendering.frame import draw_frame
from llmsched_gym.rendering.text import cluster_text
from llmsched_gym.workload.template import TemplateTable

RENDER_MODES = ("ansi", "rgb_array")
RENDER_FPS = 20  # decisions a second, where they become a video


def check_render_mode(render_mode: Any) -> None:
    """ValueError for a render mode that there is not."""
    if render_mode is None or render_mode in RENDER_MODES:
        return
    valid = ", ".join(RENDER_MODES)
    hint = "" if render_mode != "human" else ' (gymnasium.make opens a window for "human")'
    raise ValueError(f"render_mode: unknown {render_mode!r}, choose from {valid} or None{hint}")


def render(
    state: ClusterState, templates: TemplateTable, applications: Sequence[str], render_mode: str
) -> Any:
    """A text in mode "ansi", a picture, uint8 [720, 1280, 3], in mode "rgb_array"."""
    if render_mode == "ansi":
        return cluster_text(state, applications)
    return draw_frame(state, templates, applications)

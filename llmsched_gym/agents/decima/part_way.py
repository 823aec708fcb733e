"""A network part of the way from `resource_srtf` to what tuning has led to.

    python -m llmsched_gym.agents.decima.part_way mine/best.safetensors 0.25 mine/part.safetensors

Tuning plays short episodes, in whose short queues a job is seldom close to another. Preferences
that pay there can go too far in longer queues; docs/training.md shows by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmsched_gym.agents.decima.policy import Decima
from llmsched_gym.agents.learning import checkpoint
from llmsched_gym.workload.console import Parser, run


def part_way(path: Path, share: float, to: Path) -> None:
    """Write the network of a checkpoint with that share of what its preferences differ by from
    those of `resource_srtf`; the rest of it must be as it began (``begin_as``).

    Raises
    ------
    ValueError
        for another network, or a share that is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share} is not a number between 0 and 1")
    network = Decima(str(path)).network
    if not network.only_prefers():
        raise ValueError(f"{path}: more than its preferences differs from resource_srtf")
    tuned = network.preference().clone()
    network.prefer_least_work()
    network.preference().lerp_(tuned, share)
    _, about = checkpoint.load(path, Decima.kind)
    kept = {name: about[name] for name in ("kind", "network", "settings") if name in about}
    checkpoint.save(to, network.state_dict(), kept | {"share": share})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: 0, or 2 after one line for bad input."""
    parser = Parser("part_way", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="that train.py has written")
    parser.add_argument("share", type=float, help="of the way, from 0 to 1")
    parser.add_argument("to", type=Path, help="the file to write")
    given = parser.parse_args(arguments)

    def command() -> int:
        part_way(given.checkpoint, given.share, given.to)
        return 0

    return run(parser.prog, command)


if __name__ == "__main__":
    raise SystemExit(main())

"""Names of folders that tell results apart: what was asked for is in them."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

IN_FRONT = (  # of what configs/*.yaml name folders by before the other options
    *("policy", "workload", "cluster", "belief", "agent", "experiment"),
    *("policy.name", "workload.name", "workload.load", "cluster.name", "belief.name", "agent.name"),
    *("experiment.name", "seed"),
    "backend",  # told by testbed.url
)
NO_MATTER = (  # to what is in the files, or how training goes on in the same folder
    *("output_dir", "overwrite", "animation", "report", "processes", "resume"),
    *("minutes", "checkpoint_minutes", "logger", "wandb", "ray", "rollout", "rollout.name"),
    "experiment.ray",
    "hydra",
)
LONGEST = 64  # characters of the options; all of a name stays below 200


def other_options(*, _root_: DictConfig) -> str:
    """What a configuration calls ``${other_options:}``: those given that are not in front of it."""
    hydra = _root_ if "hydra" in _root_ else None
    if hydra is None and not HydraConfig.initialized():
        return ""
    task = hydra.hydra.overrides.task if hydra is not None else HydraConfig.get().overrides.task
    return options_suffix([str(one) for one in task], experiment="experiment" in _root_)


def options_suffix(overrides: list[str], experiment: bool = False) -> str:
    """What overrides such as ``name=value`` add to the name of a folder, the same in any order.

    It is allowed on every file system; where it is long or had to be altered for that, a digest of
    all of it stands at its end. An experiment has its cluster not in front.
    """
    given: dict[str, Any] = {}
    for override in overrides:
        name, _, value = override.partition("=")
        name = name.lstrip("+~")
        of_cluster = experiment and name == "cluster"
        if of_cluster or not (name in IN_FRONT or _no_matter(name)):
            given[name] = value
    if not given:
        return ""
    whole = "_".join(f"{name}-{_plain(given[name])}" for name in sorted(given))
    short = re.sub(r"[^A-Za-z0-9.+_-]+", "-", re.sub("https?://", "", whole)).rstrip(".")
    if short == whole.lower() and len(short) <= LONGEST:
        return f"_{short}"
    exact = "\n".join(f"{name}={given[name]}" for name in sorted(given))
    digest = hashlib.sha256(exact.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"_{short[:LONGEST]}-{digest}"


def _plain(value: str) -> str:
    """A list without its brackets."""
    if value == "[]":
        return "none"
    found = re.fullmatch(r"\[([^\[\]\s]+)\]", value)
    return found[1].replace(",", "+") if found else value


def _no_matter(name: str) -> bool:
    return name in NO_MATTER or name.partition(".")[0] in ("hydra", "wandb", "ray")


# When this is imported, and not when a command begins: points of a sweep run in other processes.
OmegaConf.register_new_resolver("other_options", other_options, replace=True)

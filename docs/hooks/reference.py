"""The pages of docs/reference/, made from the code whenever the site is built."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import api
import commands
from docstrings import code, entries, markdown, meanings, plain, sections, table

from llmsched_gym.agents.decima import training as decima
from llmsched_gym.agents.ppo import training as ppo
from llmsched_gym.cluster.preset import CLUSTERS
from llmsched_gym.env import BELIEFS, SCENARIOS, LLMSchedEnv, LLMSchedVectorEnv, Slo, Step
from llmsched_gym.env.features import Observation, describe, observation_space
from llmsched_gym.env.outcome import episode_metrics
from llmsched_gym.env.reward import REWARDS, Jobs
from llmsched_gym.evaluation import results
from llmsched_gym.evaluation.belief_quality import BELIEF_COLUMNS
from llmsched_gym.experiments import rankings, scores, tables
from llmsched_gym.workload.mixes import WORKLOADS

ROOT = Path(__file__).parents[2]
SIZES = {"max_stages": 90_001, "max_edges": 80_001, "max_jobs": 70_001}  # all different


def on_files(files: Any, config: Any) -> Any:
    """Add the pages: MkDocs calls this with the files that it has found."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """All pages in Markdown, by their paths."""
    made = {
        "make": _make(),
        "spaces": _spaces(),
        "info": _info(),
        "rewards": _rewards(),
        "commands": commands.page(),
        "files": _files(),
        "schema": _schema(),
    }
    found = {f"reference/{name}.md": text for name, text in made.items()} | api.pages()
    return found | {"changelog.md": _changelog()}


# --- the environment ------------------------------------------------------------------------------


def _make() -> str:
    lines = ["# Options of gymnasium.make", "", "## One cluster", ""]
    lines += ['`gymnasium.make("LLMSched-v0", ...)`', "", *_parameters(LLMSchedEnv)]
    lines += ["`scenario`, a name from [The suite](../suite.md), sets workload, load, cluster and"]
    lines += ["`num_jobs` where these are not given.", ""]
    lines += ["## Many clusters", "", '`gymnasium.make_vec("LLMSched-v0", num_envs=N, ...)` takes']
    lines += ["these, and those above but `driver`:", "", *_parameters(LLMSchedVectorEnv)]
    lines += ["## Names", ""]
    for option, names in (
        ("workload", WORKLOADS),
        ("cluster", CLUSTERS),
        ("belief", BELIEFS),
        ("scenario", SCENARIOS),
    ):
        lines += [f"- `{option}`: {', '.join(f'`{name}`' for name in names)}"]
    return "\n".join([*lines, ""])


def _parameters(made: type[Any]) -> Iterator[str]:
    """The parameters of a class with their defaults, and what it raises."""
    defaults = inspect.signature(made).parameters
    rows = [
        (code(name), code(_default(defaults[name])), said) for name, said in meanings(made).items()
    ]
    yield from table(("option", "default", "what"), rows)
    raised = entries(sections(made.__doc__)["Raises"])
    yield from table(("raises", "when"), ((code(name), plain(said)) for name, said in raised))


def _default(parameter: inspect.Parameter) -> str:
    default = parameter.default
    return "" if default is parameter.empty else str(getattr(default, "value", default))


def _spaces() -> str:
    space: Any = observation_space(**SIZES)
    said = meanings(Observation)
    names = {size: name for name, size in SIZES.items()}
    names |= {size + 1: f"{name} + 1" for name, size in SIZES.items()}
    bounds = {size - 1: f"{name} - 1" for name, size in SIZES.items()}
    rows = []
    for key, box in space.spaces.items():
        shape = ", ".join(str(names.get(size, size)) for size in box.shape or ())
        most = float(box.high.flat[0])
        shown = bounds.get(int(most), f"{most:g}")
        rows.append((f"`{key}`", f"[{shape}]", box.dtype, f"0 to {shown}", said[key]))
    lines = ["# Spaces", "", "## Observation", "", "`gymnasium.spaces.Dict` of `Box`es. What rows"]
    lines += ["mean, and what is not shown, is in [The observation](../observation.md).", ""]
    lines += table(("key", "shape", "type", "values", "what"), rows)
    lines += ["## Action", "", "`Discrete(max_stages + 1)`: run one task of the stage in that row;"]
    lines += ["the last one waits. Legal are those whose `action_mask` is 1; the same mask is in"]
    lines += ["`info`, and as booleans in `env.unwrapped.action_masks()`.", ""]
    return "\n".join([*lines, "## Columns", "", describe()])


def _info() -> str:
    lines = ["# Info", "", "## Every step", ""]
    lines += ["- `action_mask`: int8 [max_stages + 1], as in the observation."]
    lines += ["- `invalid_action`: True, only after an illegal action (`strict=False`).", ""]
    lines += ["## The end of an episode", "", "Also in `env.unwrapped.metrics()` at any moment. "]
    lines += [markdown(episode_metrics.__doc__), "", "## reset", ""]
    lines += [markdown(LLMSchedEnv.reset.__doc__), "", "## step", ""]
    return "\n".join([*lines, markdown(LLMSchedEnv.step.__doc__), ""])


def _rewards() -> str:
    lines = [
        "# Rewards",
        "",
        "The option `reward` of `gymnasium.make`, and `reward=` of `train.py`.",
    ]
    lines += ["How to write one is in [Bring your own](../bring_your_own.md).", ""]
    for name, reward in REWARDS.items():
        of_class = isinstance(reward, Slo)
        lines += [f"## {name}", "", markdown(Slo.__doc__ if of_class else reward.__doc__), ""]
    lines += ["## Step", "", markdown(Step.__doc__), "", "## Jobs", "", markdown(Jobs.__doc__), ""]
    shown = {name: found for name, found in vars(Jobs).items() if isinstance(found, property)}
    lines += [f"- `{name}`: {plain(found.__doc__ or '')}" for name, found in shown.items()]
    return "\n".join([*lines, ""])


# --- files ----------------------------------------------------------------------------------------


def _files() -> str:
    written = {
        "evaluate.py": {
            "episodes.csv": results.EPISODE_COLUMNS,
            "jobs.csv": results.JOB_COLUMNS,
            "tasks.csv (`backend=testbed`)": results.TASK_COLUMNS,
        },
        "evaluate.py experiment=NAME": {
            "results.csv": tables.RESULT_COLUMNS,
            "summary.csv": tables.SUMMARY_COLUMNS,
            "applications.csv": tables.APPLICATION_COLUMNS,
            "jobs.csv.gz": tables.JOB_COLUMNS,
            "belief.csv": BELIEF_COLUMNS,
            "overhead.csv": tables.OVERHEAD_COLUMNS,
        },
        "evaluate.py experiment=suite": {
            "episodes.csv": scores.EPISODE_COLUMNS,
            "scores.csv": scores.SCORE_COLUMNS,
        },
        "evaluate.py experiment=robustness": {
            "standings.csv": rankings.STANDING_COLUMNS,
            "orders.csv": rankings.ORDER_COLUMNS,
        },
        "train.py": {
            "progress.csv (`agent=decima`, `gnn`)": decima.COLUMNS,
            "progress.csv (`agent=ppo`)": ppo.COLUMNS,
            "held_out.csv": ("policy", "mean_jct_s"),
        },
    }
    lines = ["# Files written", "", "A column's name ends in its unit where it has one: `jct_s` is"]
    lines += ["in seconds, `decision_us` in microseconds. What else is in a folder is said under"]
    lines += ["[Experiments](../experiments.md) and [Training](../training.md).", ""]
    for command, tables_of in written.items():
        lines += [f"## {command}", ""]
        rows = [(name, ", ".join(f"`{c}`" for c in columns)) for name, columns in tables_of.items()]
        lines += table(("file", "columns"), rows)
    return "\n".join(lines)


def _schema() -> str:
    text = resources("llmsched_gym.workload").joinpath("schema.json").read_text(encoding="utf-8")
    about = json.loads(text)
    lines = [f"# {about['title']}", "", about["description"], "", "The same as a table, with an"]
    lines += [
        "example, is in [Workloads](../workloads.md#trace-format); what a file breaks of it is"
    ]
    lines += ["told by `python -m llmsched_gym.workload.validate`. In Python it is"]
    lines += ['`importlib.resources.files("llmsched_gym.workload") / "schema.json"`.', ""]
    return "\n".join([*lines, "```json", text.strip(), "```", ""])


def _changelog() -> str:
    """CHANGELOG.md, whose links are those of the root of a checkout."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return text.replace("](docs/", "](").replace("[docs/", "[")

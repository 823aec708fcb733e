"""The leaderboard of the suite: a row for every policy that played all of its scenarios.

``python -m llmsched_gym.experiments.leaderboard FOLDER...``, in a checkout, takes the scores of
runs of ``experiment=suite`` into ``leaderboard.csv``, where a policy's new row replaces its old
one, and writes the tables between the markers of ``docs/suite.md`` and the picture there. Without a
folder it writes these anew. Running it twice gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from llmsched_gym.env.named import SCENARIOS, SUITE
from llmsched_gym.errors import one_line
from llmsched_gym.evaluation.results import write_csv
from llmsched_gym.experiments.scores import MEAN, Score, picture
from llmsched_gym.experiments.suite import ENDS
from llmsched_gym.files import replacing
from llmsched_gym.metrics import Estimate

ROOT = Path(__file__).parents[2]
COLUMNS = (
    *("policy", "score", "score_low", "score_high", *SCENARIOS),
    *("suite", "episodes", "seed", "commit", "command"),
)
BEGIN, END = "<!-- {}: begin -->\n", "<!-- {}: end -->\n"
DRAWN = 8  # policies in the picture, the best ones
Row = dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; 0, or 2 with one line on standard error and nothing written."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="output_dir of experiment=suite")
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="folder of leaderboard.csv and docs/suite.md"
    )
    options = parser.parse_args(arguments)
    board, page = options.root / "leaderboard.csv", options.root / "docs" / "suite.md"
    try:
        rows = {row["policy"]: row for row in read(board)} if board.exists() else {}
        for folder in options.folders:
            rows |= {row["policy"]: row for row in rows_of(folder)}
        ranked = sorted(rows.values(), key=lambda row: (-float(row["score"]), row["policy"]))
        text = redrawn(page.read_text(encoding="utf-8"), ranked)
    except (OSError, ValueError, KeyError) as error:
        print(f"leaderboard: {one_line(error)}", file=sys.stderr)
        return 2
    with replacing(board) as part:
        write_csv(part, COLUMNS, (tuple(row[name] for name in COLUMNS) for row in ranked))
    with replacing(page) as part:
        part.write_text(text, encoding="utf-8")
    draw(ranked, page.parent / "images" / "suite.png")
    return 0


def read(path: Path) -> list[Row]:
    """The rows of a leaderboard; ValueError for one with other columns."""
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        rows = list(table)
    if tuple(table.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path}: its columns are not those of the suite {SUITE}")
    return rows


def rows_of(folder: Path) -> list[Row]:
    """A row for each policy of a run of the suite.

    Raises
    ------
    ValueError
        for a run of another version, or of a part of the suite.
    OSError
        if the files of a run are not there.
    """
    path = folder / "summary.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    if about.get("suite") != SUITE:
        raise ValueError(f"{path}: no run of the suite {SUITE}")
    settings = about["settings"]
    if settings["experiment"]["num_jobs"] is not None:
        raise ValueError(f"{path}: experiment.num_jobs is not that of the suite")
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        scores = list(csv.DictReader(file))
    missing = sorted(SCENARIOS.keys() - {score["scenario"] for score in scores})
    if missing:
        raise ValueError(f"{path}: without the scenario {missing[0]}")
    rows = []
    for label, described in about["policies"].items():
        if label in ENDS:
            continue
        mine = {score["scenario"]: score for score in scores if score["policy"] == label}
        rows.append(
            {
                "policy": label,
                **{
                    f"score{end}": _short(mine[MEAN][f"score{end}"])
                    for end in ("", "_low", "_high")
                },
                **{name: _short(mine[name]["score"]) for name in SCENARIOS},
                "suite": SUITE,
                "episodes": str(settings["experiment"]["episodes"]),
                "seed": str(settings["seed"]),
                "commit": str(about["commit"] or ""),
                "command": command(label, described, settings),
            }
        )
    return rows


def command(label: str, described: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What plays a policy on the suite, to be typed into a shell."""
    name, changed = described["policy"], dict(described["options"])
    words = ["python evaluate.py experiment=suite"]
    if described["belief"] not in ("bayes", "none"):
        changed["belief"] = described["belief"]
    if label == name and not changed and ":" not in name:
        words.append(f"policy={name}")
    else:
        given = {"name": name, **changed, **({"label": label} if label != name else {})}
        inside = ", ".join(f"{key}: {_yaml(value)}" for key, value in given.items())
        words.append(shlex.quote(f"experiment.policies=[{{{inside}}}]"))
    if settings["experiment"]["episodes"] != 20:
        words.append(f"experiment.episodes={settings['experiment']['episodes']}")
    if settings["seed"]:
        words.append(f"seed={settings['seed']}")
    return " ".join(words)


def _yaml(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    plain = all(sign.isalnum() or sign in "._/-" for sign in text)
    return text if plain else json.dumps(text)


def _short(number: str) -> str:
    return f"{round(float(number), 1) + 0.0:.1f}" if number else ""  # no minus zero


# --- The page and its picture ---------------------------------------------------------------------


def redrawn(text: str, ranked: Sequence[Row]) -> str:
    """The page with the tables of scenarios and of the leaderboard between its markers."""
    for name, lines in (("scenarios", scenario_table()), ("leaderboard", board_table(ranked))):
        begin, end = BEGIN.format(name), END.format(name)
        if begin not in text or end not in text:
            raise ValueError(f"suite.md: markers {begin.strip()} and {end.strip()} not found")
        head, rest = text.split(begin, 1)
        text = head + begin + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1]
    return text


def scenario_table() -> list[str]:
    """Markdown: what each scenario is, and what it tests."""
    lines = ["| scenario | it tests | workload | load | engines | tools | jobs |"]
    lines.append("|---|---|---|---:|---:|---:|---:|")
    for name, one in SCENARIOS.items():
        came = "" if one.arrivals is None else f", `{one.arrivals}`"
        sizes = f"{one.load:g} | {one.engines} | {one.regular_executors} | {one.num_jobs:,}"
        lines.append(f"| `{name}` | {one.tests} | `{one.workload}`{came} | {sizes} |")
    return lines


def board_table(ranked: Iterable[Row]) -> list[str]:
    """Markdown: the mean score of each policy, and that of each scenario."""
    heads = [f"`{name}`" for name in SCENARIOS]
    lines = [f"| policy | mean [95 %] | {' | '.join(heads)} | episodes |"]
    lines.append("|---|---|" + "---:|" * (len(heads) + 1))
    for row in ranked:
        interval = f" [{row['score_low']}, {row['score_high']}]" if row["score_low"] else ""
        cells = [f"`{row['policy']}`", row["score"] + interval, *(row[name] for name in SCENARIOS)]
        lines.append(f"| {' | '.join(cells)} | {row['episodes']} |")
    return lines


def draw(ranked: Sequence[Row], path: Path) -> None:
    """Write the picture of the best policies; without one there is none."""
    found = [score for row in ranked[:DRAWN] for score in _scores(row)]
    figure = picture(found, f"Suite {SUITE}")
    path.parent.mkdir(exist_ok=True)
    if figure is not None:
        with replacing(path) as part:
            figure.savefig(part, format="png")


def _scores(row: Row) -> list[Score]:
    nothing = Estimate(None)
    each = [
        Score(name, row["policy"], nothing, Estimate(float(row[name]) / 100))
        for name in SCENARIOS
        if row[name]
    ]
    ends = (float(row[name]) / 100 if row[name] else None for name in COLUMNS[1:4])
    return [*each, Score(MEAN, row["policy"], nothing, Estimate(*ends))]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"leaderboard: {message}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    raise SystemExit(main())

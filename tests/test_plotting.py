"""Figures whose names come from anywhere, and which fail."""

import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from llmsched_gym.agents.base import POLICIES
from llmsched_gym.evaluation.figures import jct_by_policy, jct_cdf
from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import OWN_COLOURS, legend_name, looks_of, new_figure, save

ODD = ("$_$", "usd$_$eur", "$\\frac$", "a$b", "_hidden", "x^{", "100 %", "\\", "\x1b[31m", "\ud800",
       "a\nb", "\x00", "作業", "[red]x", "&lt;{}")  # fmt: skip


def as_it_is(figure: Figure) -> Figure:
    return figure


def test_names_are_no_formulas(tmp_path: Path) -> None:
    jct = {name: np.array([1.0, 2.0, 5.0]) * (n + 1) for n, name in enumerate(ODD)}
    means = {name: Estimate(1.0, 0.5, 2.0) for name in ODD}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = (
            jct_cdf(jct, ODD[:2], "$_$ \x1b"),
            jct_by_policy(means, dict.fromkeys(ODD, 3.0), (), "\\$"),
        )
        for number, figure in enumerate(figures):
            assert save(partial(as_it_is, figure), tmp_path / f"{number}.png")
    legend = figures[0].axes[0].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == len(ODD), "none is left out"


def test_a_dollar_is_drawn_as_a_dollar() -> None:
    pictures = []
    for title in ("$x$", "x", r"\$x\$"):
        figure, _ = new_figure(title, 2.0)
        pictures.append(figure._repr_png_())
    assert len(set(pictures)) == 3
    with matplotlib.rc_context({"text.usetex": True}):
        figure, axes = new_figure("$x$", 2.0)
        axes.set_xlabel("m_{")
        assert figure._repr_png_()
    assert legend_name("_x\x1b") == " _x\\x1b"


def test_a_figure_that_fails_costs_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw() -> None:
        raise RuntimeError("no\x1b\nway")

    assert not save(draw, tmp_path / "curve.png")
    assert capsys.readouterr().err == "curve.png could not be drawn: RuntimeError: no\\x1b way\n"
    assert not save(lambda: None, tmp_path / "curve.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", ["nonsense", "module://nowhere", "TkAgg", ""])
def test_no_backend_matters(tmp_path: Path, backend: str) -> None:
    program = (
        "from llmsched_gym.plotting import new_figure, save\n"
        "from pathlib import Path\n"
        "assert save(lambda: new_figure('x', 2)[0], Path('x.png'))\n"
    )
    environment = os.environ | {"MPLBACKEND": backend}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_policy_looks_alike_whatever_stands_beside_it() -> None:
    alone = {name: looks_of([name])[name] for name in OWN_COLOURS}
    together = looks_of(["mine", *reversed(OWN_COLOURS), "theirs"])
    assert all(together[name] == alone[name] for name in OWN_COLOURS)
    assert set(OWN_COLOURS) == set(POLICIES), "every policy has its own"
    assert len({(one.colour, one.marker, one.dash) for one in together.values()}) == 18
    assert len({one.colour for one in together.values()}) == 18


def test_others_take_what_is_free() -> None:
    many = looks_of(["sjf", *(f"mine{number}" for number in range(20))])
    colours = [one.colour for one in many.values()]
    assert len(set(colours[:18])) == 18
    assert many["sjf"].colour not in colours[1:]


def test_the_clairvoyant_are_black_and_hatched() -> None:
    found = looks_of(["sjf", "sjf_oracle", "other_oracle"], ["sjf_oracle", "other_oracle"])
    assert [one.colour for one in found.values()][1:] == ["#000000"] * 2
    assert found["sjf_oracle"].bar()["hatch"] == "///"
    assert found["sjf_oracle"].dash != found["other_oracle"].dash
    assert "hatch" not in found["sjf"].bar()

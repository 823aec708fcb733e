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

from llmsched_gym.evaluation.figures import jct_by_policy, jct_cdf
from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import legend_name, new_figure, save

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

"""Figures whose names come from anywhere, and which fail."""

import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from llmsched_gym.agents.base import POLICIES
from llmsched_gym.agents.learning.curve import learning_curve
from llmsched_gym.evaluation.figures import jct_by_policy, jct_cdf
from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import (
    FREE_COLOURS,
    HIGHEST,
    OWN_COLOURS,
    Picture,
    legend_name,
    looks_of,
    new_figure,
    save,
    shown_label,
)
from support.sampled import sampled

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
    (legend,) = figures[0].legends
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


@sampled("backend", ["nonsense", "module://nowhere", "TkAgg", ""])
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
    assert (
        len({(one.colour, one.marker, one.dash) for one in together.values()})
        == len(OWN_COLOURS) + 2
    )
    assert len({one.colour for one in together.values()}) == len(OWN_COLOURS) + 2


# Machado, Oliveira and Fernandes 2009, on linear RGB: nobody sees red, green or blue.
SEEN: dict[str, Any] = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                 [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = ((0.4339, 0.3762, 0.1899), (0.2126, 0.7152, 0.0722), (0.0178, 0.1095, 0.8727))  # white: 1


def cielab(colours: list[str], seen: Any) -> NDArray[np.float64]:
    """The colours in CIELAB, as somebody sees them: [colours, 3]."""
    rgb = np.array([[int(one[i : i + 2], 16) / 255 for i in (1, 3, 5)] for one in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(seen), 0, 1) @ np.transpose(TO_XYZ)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root.T
    return np.column_stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("who", SEEN)
def test_colours_can_be_told_apart_without_seeing_all(who: str) -> None:
    """10 in CIELAB is a difference that everybody sees at a glance; 2 is seen side by side."""
    colours = [*OWN_COLOURS.values(), *FREE_COLOURS, "#000000"]
    lab = cielab(colours, SEEN[who])
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 100 * np.eye(len(lab))
    assert apart.min() > 13


LONG = "a/rather/long/path/that_somebody/gave_as/a_name_of_something_" + "w" * 60


@pytest.mark.parametrize("policies", [1, 3, 19, 40])
def test_no_text_is_cut_and_no_figure_higher_than_a_screen(policies: int) -> None:
    labels = [f"{LONG}{number}" for number in range(policies)]
    title = f"{LONG} at load 1.3 on {LONG} (4 engines x 8 slots)\nepisodes: 8, jobs each: 100"
    means = {label: Estimate(50.0 + n, 40.0, 70.0) for n, label in enumerate(labels)}
    figures = (
        jct_by_policy(means, dict.fromkeys(labels, 300.0), labels[:1], title),
        jct_cdf({label: [1.0, 2.0, 30.0] for label in labels}, labels[:1], title),
    )
    for figure in figures:
        assert_nothing_is_cut(figure)
    assert len({shown_label(label, ()) for label in labels}) == policies


@pytest.mark.parametrize("others", [0, 1, 6])
@pytest.mark.parametrize("above", [1.0, 9.0])
def test_no_text_of_a_learning_curve_is_cut(others: int, above: float) -> None:
    compared = {f"resource_srtf_{number}": 1234.5 * above for number in range(others)}
    figure = learning_curve([0, 1e6], [1240.0, 1230.0], compared, "decima", "tool_agent")
    assert_nothing_is_cut(figure)


def assert_nothing_is_cut(figure: Figure) -> None:
    assert isinstance(figure, Picture)
    figure.canvas.draw()
    width, height = figure.bbox.size
    assert height <= HIGHEST
    drawn = figure.get_tightbbox()
    assert -0.01 <= drawn.x0 <= drawn.x1 <= width / figure.dpi + 0.01
    assert -0.01 <= drawn.y0 <= drawn.y1 <= height / figure.dpi + 0.01


def test_means_that_are_far_apart_are_marks_on_a_logarithmic_axis() -> None:
    near = {name: Estimate(value) for name, value in (("sjf", 50.0), ("fcfs", 100.0))}
    far = near | {"argus": Estimate(1000.0)}
    for means, scale, bars in ((near, "linear", 2), (far, "log", 0)):
        axes = jct_by_policy(means, dict.fromkeys(means, 2000.0), (), "").axes[0]
        assert (axes.get_xscale(), len(axes.patches)) == (scale, bars)


def test_others_take_what_is_free() -> None:
    many = looks_of(["sjf", *(f"mine{number}" for number in range(20))])
    colours = [one.colour for one in many.values()]
    free = len(OWN_COLOURS) + len(FREE_COLOURS)
    assert len(set(colours[:free])) == free
    assert many["sjf"].colour not in colours[1:]


def test_the_clairvoyant_are_black_and_hatched() -> None:
    found = looks_of(["sjf", "sjf_oracle", "other_oracle"], ["sjf_oracle", "other_oracle"])
    assert [one.colour for one in found.values()][1:] == ["#000000"] * 2
    assert found["sjf_oracle"].bar()["hatch"] == "///"
    assert found["sjf_oracle"].dash != found["other_oracle"].dash
    assert "hatch" not in found["sjf"].bar()

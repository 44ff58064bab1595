"""Copies of figures for dark pages and phones."""

from __future__ import annotations

import io
import itertools

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from PIL import Image

from binarize.inspect import style
from binarize.inspect.restyle import WIDTH, restyled
from binarize.inspect.section import Section


def three_panels() -> Section:
    figure = style.figure(12.0, 4.0)
    panels = figure.subplots(1, 3)
    names = [f"encoder.stages_{i}.block" for i in range(12)]
    for axes in panels:
        axes.plot(range(12), range(12), label="net", **style.looks(0))
        axes.axhline(3, color="black")
        style.layer_axis(axes, names, 40.0)  # labels that would not fit
        axes.set_xlabel("")
    figure.supxlabel("a label that is longer than a narrow page, which is why it takes two lines there")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    return Section(name="n", analysis="n", title="t", figure=figure, findings=(), rows=[], data={})


def pixels(section: Section, **page: bool) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(section.picture(**page))).convert("RGBA"))


def test_the_original_stays() -> None:
    section = three_panels()
    before = section.picture()
    dark = section.picture(clear=True, dark=True, narrow=True)
    assert section.picture() == before
    assert section.picture(clear=True, dark=True, narrow=True) == dark  # equal bytes


def test_dark_pictures_have_light_ink_and_no_background() -> None:
    found = pixels(three_panels(), clear=True, dark=True)
    assert (found[..., 3] == 0).mean() > 0.8
    figure = restyled(three_panels().figure, dark=True)
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_text()]
    assert len(texts) > 10
    assert min(min(to_rgba(t.get_color())[:3]) for t in texts) > 0.8
    assert min(min(to_rgba(s.get_edgecolor())[:3]) for a in figure.axes for s in a.spines.values()) > 0.8
    plain = pixels(three_panels(), clear=True)
    assert (plain[plain[..., 3] > 200][:, :3].sum(1) < 100).any()


def test_colours_stay_apart_on_a_dark_page() -> None:
    figure = style.figure(4.0, 3.0)
    axes = figure.subplots()
    for index in range(len(style.COLOURS)):
        axes.plot([0, 1], [index, index], **style.looks(index))
    lines = restyled(figure, dark=True).axes[0].lines
    colours = np.array([to_rgba(line.get_color())[:3] for line in lines])
    apart = np.abs(colours[:, None] - colours[None]).sum(2) + 9 * np.eye(len(colours))
    assert apart.min() > 0.2
    assert colours.max(1).min() > 0.5


def test_narrow_figures_have_their_panels_below_each_other() -> None:
    figure = restyled(three_panels().figure, narrow=True)
    assert figure.get_size_inches()[0] == WIDTH
    figure.draw_without_rendering()
    boxes = [axes.get_position() for axes in figure.axes]
    assert len({round(box.x0, 3) for box in boxes}) == 1
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))
    assert figure.axes[-1].get_xlabel().count("\n") == 1
    (legend,) = figure.legends
    edge = legend.get_window_extent()
    assert edge.y1 <= figure.axes[-1].xaxis.label.get_window_extent().y0
    for axes in figure.axes:
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_visible()]
        assert len(labels) > 1
        assert all(one.x1 <= other.x0 for one, other in itertools.pairwise(labels))

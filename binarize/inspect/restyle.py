"""A copy of a figure for another page: a dark one, or one as narrow as a phone."""

from __future__ import annotations

import pickle
import textwrap
from typing import Any

WIDTH = 4.4
"""Inches of a narrow figure; text of 8 points is still read where these are shown on 350 pixels."""

_PANEL = 2.9  # inches, height of one of several panels
_LETTERS = 50  # of a label below an axis, in a line
_INK, _PAPER = 0.88, 0.16  # what black and white become on a dark page
_LIGHTER = 0.3  # share of white that colours get there


def restyled(figure: Any, *, dark: bool = False, narrow: bool = False) -> Any:
    """A copy of a figure of matplotlib; the original stays as it is.

    Args:
        figure: to copy; not one of pyplot.
        dark: with light ink, for a dark page. Colours become a little lighter, images stay.
        narrow: `WIDTH` wide, with panels below each other in place of side by side.
    """
    copy = pickle.loads(pickle.dumps(figure))
    if narrow:
        _stack(copy)
    if dark:
        _invert(copy)
    return copy


def _stack(figure: Any) -> None:
    from matplotlib.gridspec import GridSpec

    width, height = figure.get_size_inches()
    panels = [axes for axes in figure.axes if axes.get_subplotspec() is not None]
    shown = [axes for axes in panels if axes.axison]
    if all(axes.images and not axes.lines for axes in shown):  # pictures side by side are compared
        figure.set_size_inches(WIDTH, height * WIDTH / width + 0.4)
    elif all(axes.get_subplotspec().get_gridspec().ncols == 1 for axes in shown):
        figure.set_size_inches(WIDTH, height)
    else:
        grid = GridSpec(len(shown), 1, figure=figure)
        for place, axes in enumerate(shown):
            axes.set_subplotspec(grid[place])
        for axes in panels:
            if axes not in shown:
                axes.remove()
        figure.set_size_inches(WIDTH, _PANEL * len(shown) + 0.8)
    for legend in list(figure.legends):
        texts = [text.get_text() for text in legend.get_texts()]
        handles = legend.legend_handles
        legend.remove()
        figure.legend(handles, texts, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    if words := figure.get_supxlabel():  # the legend is below all panels
        shown[-1].set_xlabel(words, fontsize=9)
        figure.supxlabel("")
    for text in (axes.xaxis.label for axes in shown):
        text.set_text("\n".join(textwrap.wrap(text.get_text(), _LETTERS)))
    figure.draw_without_rendering()
    for axes in shown:
        _thin_out(axes)


def _thin_out(axes: Any) -> None:
    """Hide the labels of the x axis that would lie on the one before."""
    end = float("-inf")
    for label in axes.get_xticklabels():
        if not label.get_text() or not label.get_visible():
            continue
        box = label.get_window_extent()
        if box.x0 < end:
            label.set_visible(False)
        else:
            end = box.x1


def _invert(figure: Any) -> None:
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    figure.draw_without_rendering()  # makes the ticks
    backgrounds = {id(figure.patch), *(id(axes.patch) for axes in figure.axes)}
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_color(_on_dark(artist.get_color()))
        elif isinstance(artist, Line2D):
            marker = _on_dark(artist.get_markerfacecolor()), _on_dark(artist.get_markeredgecolor())
            artist.set_color(_on_dark(artist.get_color()))
            artist.set_markerfacecolor(marker[0])
            artist.set_markeredgecolor(marker[1])
        elif isinstance(artist, Patch) and id(artist) not in backgrounds:
            face, edge = _on_dark(artist.get_facecolor()), _on_dark(artist.get_edgecolor())
            artist.set_facecolor(face)
            artist.set_edgecolor(edge)
        elif isinstance(artist, Collection) and artist.get_array() is None:
            face, edge = ([_on_dark(c) for c in f()] for f in (artist.get_facecolor, artist.get_edgecolor))
            artist.set_facecolor(face)
            artist.set_edgecolor(edge)
    for axes in figure.axes:
        axes.tick_params(which="both", colors=_on_dark("black"))  # of ticks that are made later, too


def _on_dark(colour: Any) -> tuple[float, float, float, float]:
    from matplotlib.colors import to_rgba

    red, green, blue, alpha = to_rgba(colour)
    if max(red, green, blue) - min(red, green, blue) < 0.05:
        grey = _INK + (_PAPER - _INK) * red
        return grey, grey, grey, alpha
    red, green, blue = (value + _LIGHTER * (1 - value) for value in (red, green, blue))
    return red, green, blue, alpha

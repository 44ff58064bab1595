"""Predictions as pictures: colours of depth, panels, their letters and their scale."""

from __future__ import annotations

import pytest
import torch

from binarize.data.dataset import Depth, Labels
from binarize.training.pictures import classes_in, coloured, depth_span, panel

NYU = Depth(scale=1000.0, most=10.0)
GREY = torch.full((3,), 128, dtype=torch.uint8)


def test_depth_is_bright_where_it_is_near_and_grey_where_there_is_none() -> None:
    depth = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    shown = coloured(depth, NYU, (1.0, 3.0))
    assert shown.dtype == torch.uint8
    assert shown[:, 0, 0].equal(GREY)
    light = shown[:, 0, 1:].float().mean(0)
    assert light[0] > light[1] > light[2]


def test_one_scale_holds_for_all_maps() -> None:
    near, far = torch.full((4, 4), 2.0), torch.full((4, 4), 5.0)
    far[0] = 0.0  # says nothing
    assert depth_span(near, far) == (2.0, 5.0)
    assert depth_span(torch.zeros(4, 4), far) == (5.0, 5.0)
    assert depth_span(torch.zeros(4, 4)) == (0.0, 1.0)


def test_a_panel_cuts_no_name_and_keeps_pictures_as_they_are() -> None:
    part = torch.randint(0, 256, (3, 60, 40), dtype=torch.uint8)
    long = "bidense (granularity=layer)"
    shown = panel([("image", part), (long, part)])
    assert shown[:, -60:, :40].equal(part)
    narrow = panel([("image", part), ("b", part)])
    assert narrow.shape[2] == 40 + 4 + 40
    assert shown.shape[2] > narrow.shape[2]
    text = shown[:, : shown.shape[1] - 60, 44:].float().mean(0)
    assert text[:, -20:].min() < 128  # the end of the long name is there
    assert shown[:, -60:, 84:].eq(255).all()  # beside its picture nothing is


@pytest.mark.parametrize(("height", "has"), [(200, True), (30, True), (20, False)])
def test_a_bar_says_what_the_colours_mean(height: int, has: bool) -> None:
    part = torch.zeros(3, height, 80, dtype=torch.uint8)
    shown = panel([("image", part)], (1.0, 4.0))
    assert (shown.shape[2] > 84) == has
    if has:
        ends = coloured(torch.tensor([[4.0, 1.0]]), NYU, (1.0, 4.0))
        bar = shown[:, -height:, 86]
        assert bar[:, 0].equal(ends[:, 0, 0])  # far at the top
        assert bar[:, -1].equal(ends[:, 0, 1])


def test_a_key_names_the_classes_that_are_there() -> None:
    truth = Labels(names=("sky", "road", "car"), palette=((10, 20, 30), (200, 0, 0), (0, 200, 0)))
    maps = [torch.tensor([[0, 0], [255, 2]]), torch.tensor([[0, 0], [0, 0]])]  # 255 says nothing
    assert classes_in(maps, truth) == [("sky", (10, 20, 30)), ("car", (0, 200, 0))]
    part = torch.full((3, 60, 40), 77, dtype=torch.uint8)
    bare = panel([("image", part)])
    shown = panel([("image", part)], classes=classes_in(maps, truth))
    assert shown[:, : bare.shape[1]].equal(bare)
    key = shown[:, bare.shape[1] :].permute(1, 2, 0).reshape(-1, 3)
    for colour, there in (((10, 20, 30), True), ((0, 200, 0), True), ((200, 0, 0), False)):
        assert bool((key == torch.tensor(colour)).all(1).any()) == there
    wide = panel([("image", part)] * 4, classes=classes_in(maps, truth))
    assert wide.shape[1] < shown.shape[1]  # narrow ones take two lines


def test_a_key_cuts_no_name_and_names_the_largest_of_many_classes() -> None:
    names = tuple(f"class number {i}" for i in range(40))
    truth = Labels(names=names)
    ids = torch.cat([torch.full((i + 1,), i) for i in range(40)]).view(1, -1)  # the last is the largest
    named = classes_in([ids], truth)
    assert [name for name, _ in named] == [*names[16:], "and 16 more"]
    assert named[-1][1] is None
    part = torch.zeros(3, 60, 40, dtype=torch.uint8)
    long = "a class whose name is longer than the panel"
    shown = panel([("image", part)], classes=[(long, (255, 255, 255)), ("b", (1, 2, 3))])
    bare = panel([("image", part)])
    assert shown[:, bare.shape[1] - 60 : bare.shape[1], :40].equal(part)
    assert shown.shape[2] > 150
    line = shown[:, bare.shape[1] : bare.shape[1] + 18].float().mean(0)
    assert line[:, -20:].min() < 128  # the end of the name is there
    assert line[4:16, :14].min() < 200  # a white square has an edge


@pytest.mark.parametrize("letter", "üéßñżøЖΩ")
def test_names_may_have_any_letters(letter: str) -> None:
    missing = panel_key("\U0010fffe")
    assert not torch.equal(panel_key(letter), missing)  # a box


def panel_key(letter: str) -> torch.Tensor:
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    return panel([("image", picture)], classes=[(letter, (0, 0, 0))])[:, 64:]

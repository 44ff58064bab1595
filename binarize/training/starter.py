"""A first recipe for data of the user's own: sizes and lengths for a CPU, with a comment on each choice."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binarize.data.own import Found
from binarize.data.own.classes import Classes

AREA = 96 * 128
"""Pixels of a training image: the UPerNet on convnext_atto takes a few milliseconds for one on a CPU."""

_STEP = 32  # encoders halve a picture five times
_KEPT = 0.75  # share of a side that a crop has to keep: images are scaled by 0.75 to 1.5 in training
_STEPS = 1600  # of a training: about half an hour on two cores
_RARE = 0.02  # share of the rarest class below which rare classes weigh more
_EQUAL = 0.05  # difference of two aspect ratios that does not count
_WIDTH = 108

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is not in the data.

    Attributes:
        network: as `network.name` of a recipe, maybe with a query; None for the default.
        method: its name; None for a float network.
        root: of the data, as the recipe shall say it.
        command: that was called, for the first comment.
    """

    network: str | None
    method: str | None
    root: str
    command: str


def recipe_text(found: Found, choice: Choice) -> str:
    """The recipe's file.

    Args:
        found: what the data is.
        choice: what the user chose.
    """
    relative = "" if Path(choice.root).is_absolute() else " # relative to this file"
    lines = [
        *_comment(
            f"Written by `{choice.command}`: a start, small enough for a CPU. Change what you like.", 0
        ),
        f"about: {_text(_about(found, choice))}",
        "",
        "data:",
        "  name: folder",
        f"  root: {_text(choice.root)}{relative}",
        *_options(found),
        *_splits(found),
        *_sizes(found),
        "",
        *_network(choice),
        "",
        *_method(choice),
        "",
        *_training(found, choice),
    ]
    return "\n".join(lines) + "\n"


def training_size(sizes: Counter[Size]) -> Size:
    """(H, W) of training images, multiples of 32.

    Images that are small enough keep about their size: cut down to multiples of 32, or resized to the nearest
    ones where that would cut off too much. For others it is the size of about `AREA` pixels that changes
    their aspect ratio least.
    """
    if (cut := _cut(sizes)) is not None:
        return cut
    height, width = usual_size(sizes)
    if height * width <= 1.5 * AREA and min(height, width) >= _STEP:
        return _nearest(height), _nearest(width)
    sides = range(_STEP, 16 * _STEP, _STEP)

    def badness(size: Size) -> float:
        aspect = abs(math.log(size[0] * width / (size[1] * height)))
        return aspect + 0.25 * abs(math.log(size[0] * size[1] / AREA))

    return min(((h, w) for h in sides for w in sides), key=badness)


def _cut(sizes: Counter[Size]) -> Size | None:
    """The largest multiples of 32 that all images have, if these are small and lose little by it.

    Predictions are made on whole images, resized: an object there has to be about as large as in a crop.
    """
    height, width = usual_size(sizes)
    least = min(h for h, _ in sizes), min(w for _, w in sizes)
    cut = least[0] // _STEP * _STEP, least[1] // _STEP * _STEP
    little = cut[0] >= _KEPT * height and cut[1] >= _KEPT * width
    return cut if height * width <= 1.5 * AREA and min(cut) and little else None


def _nearest(side: int) -> int:
    return (side + _STEP // 2) // _STEP * _STEP


def usual_size(sizes: Counter[Size]) -> Size:
    """The size that most images have."""
    return max(sizes, key=lambda size: (sizes[size], size))


def one_aspect(sizes: Iterable[Size], size: Size) -> bool:
    """Whether all images have nearly the aspect ratio of `size`."""
    return all(abs(math.log(h * size[1] / (w * size[0]))) <= _EQUAL for h, w in sizes)


def epochs(found: Found) -> tuple[int, int]:
    """Number of epochs, and images per step."""
    count = found.images[found.roles["train"]]
    batch = next((b for b in (8, 4, 2) if b <= count), 1)
    steps = count // batch  # the remainder waits for another epoch
    return min(200, max(10, round(_STEPS / steps))), batch


def _about(found: Found, choice: Choice) -> str:
    what = f"{len(found.truth.names)} classes" if isinstance(found.truth, Classes) else "depth"
    height, width = training_size(found.sizes)
    name = Path(choice.root).name or found.layout.root.name
    return f"{name if name not in ('', '.', '..') else 'own data'}: {what} at {height}x{width}"


def _options(found: Found) -> list[str]:
    truth, options = found.truth, found.options()
    names = ("lists", "images", "truths", "nested", "image_name", "truth_name")
    rows = [f"    {name}: {_value(options[name])}" for name in names if name in options]
    if found.without_truth:
        alone = f"{len(found.without_truth)} images have no truth, first {found.without_truth[0].name}"
        rows += _comment(f"{alone}: they are left out. `error` refuses them.", 4)  # fmt: skip
        rows.append("    unpaired: skip")
    if "shares" in options:
        where = "are in one list" if found.layout.lists else "lie in one folder"
        rows += _comment(f"All files {where}: these shares of them, always the same ones. Where "
                         "neighbouring files look alike (frames of a video), make folders instead: "
                         "images/train, images/val.", 4)  # fmt: skip
        rows.append(f"    shares: {_value(options['shares'])}")
    if isinstance(truth, Classes):
        rows += _class_options(truth)
    else:
        text = f"Depths of {found.read} files are {truth.low:.3g} to {truth.high:.3g} m, if a value is in "
        others = ", ".join(f"{_unit(scale)}: to {far:.3g} m" for scale, far in truth.others.items())
        rows += _comment(f"{text}{truth.unit}{f' (scale {others})' if others else ''}. Check that.", 4)
        rows += [f"    scale: {truth.scale:g} # units per metre", f"    max_depth: {truth.most:g} # metres"]
    return ["  options:", *rows]


def _unit(scale: float) -> str:
    return f"{scale:g}"


def _class_options(truth: Classes) -> list[str]:
    rows = _comment(" ".join(f"{text[0].upper()}{text[1:]}." for text in truth.why), 4)
    absent = [name for name, share in zip(truth.names, truth.shares, strict=True) if not share]
    if absent and truth.named:
        rows += _comment(f"No mask holds {', '.join(absent[:5])}{'...' * (len(absent) > 5)}.", 4)
    options = truth.options()
    rename = "" if truth.named else " Names are yours to change."
    if truth.coloured:
        rows += _comment(f"The colour of each class in the masks.{rename}", 4)
        rows += _list("colours", _entries(options["colours"]), "{}")
    elif truth.values:
        rows += _comment(f"The class of each value of the masks.{rename}", 4)
        rows += _list("classes", _entries(options["classes"]), "{}")
    elif truth.named:
        rows += _list("classes", [_text(name) for name in truth.names])
    else:
        rows.append(f"    classes: {len(truth.names)} # or their names: [{', '.join(truth.names[:2])}...]")
    what = "colours" if truth.coloured else "values"
    rows.append(f"    ignored: {_value(options['ignored'])} # {what} that mean: no label")
    if truth.palette:
        rows += _list("palette", [_value(list(colour)) for colour in truth.palette])
    return rows


def _entries(values: dict[Any, Any]) -> list[str]:
    """`key: value` for each; numbers stay numbers."""
    return [f"{k if isinstance(k, int) else _text(k)}: {_value(value)}" for k, value in values.items()]


def _splits(found: Found) -> list[str]:
    roles = found.roles
    val, test = roles.get("val"), roles.get("test")
    place = "list" if found.layout.lists else "folder"
    lacking = f"no {place} is for this" if found.layout.splits else "too few files for it"
    rows = [f"  train: {_text(roles['train'])}"] if roles["train"] != "train" else []
    if val != "val":
        why = f" # {lacking}: nothing is watched in training" if val is None else ""
        rows.append(f"  val: {'null' if val is None else _text(val)}{why}")
    if test != "test":
        why = "" if test is not None else f" # {lacking}"
        rows.append(f"  test: {_text(test or val or roles['train'])}{why}")
    return rows


def _sizes(found: Found) -> list[str]:
    size, usual = training_size(found.sizes), usual_size(found.sizes)
    shown, given = f"[{size[0]}, {size[1]}]", f"{usual[0]}x{usual[1]}"
    many = f"{given} and {len(found.sizes) - 1} other sizes" if len(found.sizes) > 1 else given
    native = set(found.sizes) == {size}
    rows = _comment(f"Images: {many} (height x width). Encoders halve them five times: multiples of 32.", 2)
    resize = f", resize: {shown}"
    if isinstance(found.truth, Classes):
        if native or _cut(found.sizes) is not None:
            resize = ""
        elif one_aspect(found.sizes, size):
            resize = f", long_side: {max(size)}"
        augmentation = f"{{size: {shown}{resize}, scale: [0.75, 1.5]}}"
    else:  # the size of things tells their distance: no random scale
        augmentation = f"{{size: {shown}{'' if native else resize}, colour: true}}"
    rows.append(f"  augmentation: {augmentation}")
    fitted = f"resize: {shown}, " if not native else ""
    note = "" if native else " # predictions are resized back"
    return [*rows, f"  evaluation: {{{fitted}batch: 8}}{note}"]


def _network(choice: Choice) -> list[str]:
    if choice.network is not None:
        return [f"network: {{name: {_text(choice.network)}}}"]
    return [
        "# a small one; larger: convnext_tiny, width 256; your own: path/to/nets.py:unet (own-network.md)",
        "network: {name: upernet, encoder: convnext_atto, options: {width: 32}}",
    ]


def _method(choice: Choice) -> list[str]:
    if choice.method is None:
        return ["method: null # a float network"]
    return [
        "# how it becomes binary: `binarize methods` lists more; null trains the float network",
        f"method: {{name: {_text(choice.method)}}}",
    ]


def _training(found: Found, choice: Choice) -> list[str]:
    number, batch = epochs(found)
    count = found.images[found.roles["train"]]
    rate = "1.5e-3" if choice.method is None else "3.0e-3"
    rows = [
        "training:",
        *_comment(f"{count} images make {number * (count // batch)} steps. More help, if time allows.", 2),
        f"  epochs: {number}",
        f"  batch: {batch}",
        f"  lr: {rate} # a third of it if the loss jumps",
    ]
    if isinstance(found.truth, Classes) and min(found.truth.shares) < _RARE:
        rare = min((s, n) for s, n in zip(found.truth.shares, found.truth.names, strict=True))
        rows += _comment(
            f"{rare[1]} has {100 * rare[0]:.2g} % of the pixels: let rare classes count more.", 2
        )
        rows.append("  class_balance: 0.5")
    often = max(1, number // 10)
    return [
        *rows,
        "  schedule: {per: step}",
        "  channels_last: true",
        f"  save_every: {often}",
        f"  evaluate_every: {often}",
    ]


def _comment(text: str, indent: int) -> list[str]:
    return [
        f"{' ' * indent}# {line}"
        for line in textwrap.wrap(text, _WIDTH - indent - 2, break_long_words=False, break_on_hyphens=False)
    ]


def _list(name: str, items: list[str], ends: str = "[]") -> list[str]:
    """A list or mapping in one line, or in several."""
    line = f"    {name}: {ends[0]}{', '.join(items)}{ends[1]}"
    if len(line) <= _WIDTH:
        return [line]
    rows = [""]
    for item in items:
        if rows[-1] and len(rows[-1]) + len(item) > _WIDTH - 8:
            rows.append("")
        rows[-1] += f"{item}, "
    return [f"    {name}: {ends[0]}", *(f"      {row.rstrip()}" for row in rows), f"    {ends[1]}"]


def _text(text: str) -> str:
    """A YAML scalar that is read as this text."""
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./ -]*[A-Za-z0-9_./]|[A-Za-z_.]", text) is not None
    reserved = text.lower() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n", ".nan", ".inf")
    return text if plain and not reserved else json.dumps(text, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(str(key))}: {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)

"""Draw the pictures of the documentation: `python docs/pictures/draw.py [NAME...]`.

The code of this repository computes what they show. A picture keeps its numbers in its metadata, and
`tests/docs/test_generated_pages.py` computes them again: a picture that is out of date fails the tests.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin
from torch import Tensor

from binarize import methods
from binarize.cli.method_picture import draw, surrogates
from binarize.functional import channel_bypass, quantize
from binarize.functional.bypass import bypass_kind
from binarize.layers import DAB, BinaryConv2d

HERE = Path(__file__).parent
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
"""Told apart by the colour-blind (Okabe and Ito)."""

Numbers = dict[str, list[float]]
Drawing = Callable[[], tuple[Figure, Numbers]]


def listed(values: Tensor) -> list[float]:
    """Every tenth value with four digits: enough to notice a change."""
    return [round(float(value), 4) for value in values.flatten()[::10]]


def sign_and_gradients() -> tuple[Figure, Numbers]:
    """The sign, and the gradients that three methods use in place of its own."""
    figure = Figure(figsize=(8.0, 3.0), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    x = torch.linspace(-2, 2, 401)
    left.step(x, torch.where(x >= 0, 1.0, -1.0), color=BLUE, linewidth=2)
    left.set(title="forward: sign(x)", xlabel="x", ylabel="output", ylim=(-1.5, 1.5))
    numbers: Numbers = {}
    styles = (("bnn", "BNN: 1 for |x| ≤ 1", BLUE, "-"), ("reactnet", "ReActNet, BiDense", ORANGE, "--"))
    for name, label, colour, dash in styles:
        at, gradient, _ = surrogates(methods.create(name), 0.0)
        right.plot(at, gradient, dash, color=colour, label=label, linewidth=2)
        numbers[name] = listed(gradient)
    at, gradient, _ = surrogates(methods.create("irnet"), 0.5)
    right.plot(at, gradient, ":", color=GREEN, label="IR-Net, half-way", linewidth=2)
    numbers["irnet"] = listed(gradient)
    right.set(title="backward: surrogate gradients", xlabel="x", ylabel="gradient that passes")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure, numbers


def latent_weights() -> tuple[Figure, Numbers]:
    """Latent weights of a binary layer while it learns signs: small steps add up until a sign flips."""
    generator = torch.Generator().manual_seed(3)
    layer = BinaryConv2d(5, 1, 1, method="bnn", norm=False, bypass=False)
    layer.weight.data = torch.tensor([0.5, 0.25, -0.15, -0.4, 0.1])[None, :, None, None]
    goal = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.004)
    history = []
    for _ in range(60):
        history.append(layer.weight.detach().flatten().clone())
        x = torch.randn(16, 5, generator=generator)
        wanted = (torch.where(x >= 0, 1.0, -1.0) * goal).sum(1)
        weight = quantize(layer.weight_rule, layer.weight, *layer.weight_parameters())
        loss = ((torch.where(x >= 0, 1.0, -1.0) @ weight.flatten() - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    latent = torch.stack(history)
    figure = Figure(figsize=(8.0, 3.2), dpi=110, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    dashes = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
    colours = (BLUE, ORANGE, GREEN, "#CC79A7", GREY)
    for index, (dash, colour) in enumerate(zip(dashes, colours, strict=True)):
        top.plot(latent[:, index], linestyle=dash, color=colour, linewidth=2, label=f"w{index}")
    top.axhline(0, color="black", linewidth=0.8)
    top.set(title="latent weights: what the optimizer changes", ylabel="value", ylim=(-0.6, 0.95))
    top.legend(fontsize=8, ncols=5, loc="upper right")
    bottom.imshow(
        latent.sign().T.numpy(), aspect="auto", cmap="gray", vmin=-2, vmax=1.5, interpolation="nearest"
    )
    bottom.set_title("their signs: what the layer computes with (dark: -1)", fontsize=10)
    bottom.set(
        xlabel="training step", ylabel="weight", yticks=range(5), yticklabels=[f"w{i}" for i in range(5)]
    )
    return figure, {"latent": listed(latent)}


def dab() -> tuple[Figure, Numbers]:
    """A threshold and a scale that follow the input's distribution (BiDense, Eqs. 5 and 10)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, 64, 64, generator=generator) * torch.tensor([0.6, 1.4])[:, None, None, None]
    images = images + torch.tensor([0.9, -0.5])[:, None, None, None]
    quantizer = DAB(1)
    with torch.no_grad():
        quantizer.k.fill_(1.0)
        quantizer.a.fill_(0.5)
        values = quantizer(images)
    figure = Figure(figsize=(8.0, 3.0), dpi=110, layout="constrained")
    numbers: Numbers = {"values": [round(float(v), 4) for v in values.abs().amax(dim=(1, 2, 3))]}
    plots = figure.subplots(1, 3)
    for index, axes in enumerate(plots[:2]):
        x = images[index].flatten()
        fixed = float((x >= 0).float().mean())
        adaptive = float((values[index] > 0).float().mean())
        numbers[f"image {index}"] = [
            round(share, 4) for share in (fixed, adaptive, entropy(fixed), entropy(adaptive))
        ]
        axes.hist(x.numpy(), bins=40, range=(-5, 4), color="#BBBBBB")
        top = 0.76  # of the lines: the legend is above them
        axes.axvline(0, ymax=top, color=ORANGE, linestyle="--", label=f"fixed 0: {fixed:.0%} are +1")
        axes.axvline(float(x.mean()), ymax=top, color=BLUE, label=f"k mean + b: {adaptive:.0%}")
        axes.set(title=f"one channel, image {'AB'[index]}", xlabel="input x", ylim=(0, 900))
        axes.legend(fontsize=8, loc="upper left", frameon=False)
    plots[0].set_ylabel("number of pixels")
    deviation = torch.linspace(0, 3, 61)
    for a, colour, dash in ((0.5, BLUE, "-"), (0.0, GREY, "--"), (-0.5, ORANGE, ":")):
        scale = torch.exp(a * (deviation - 1))
        plots[2].plot(deviation, scale, dash, color=colour, linewidth=2, label=f"a = {a:g}")
    plots[2].set(title="scale exp(a (M - 1))", xlabel="mean deviation M", ylabel="size of the output")
    plots[2].legend(fontsize=8)
    plots[2].grid(alpha=0.3)
    return figure, numbers


def entropy(share: float) -> float:
    """Of a sign that is +1 with this share, in nats (BiDense, Eq. 2)."""
    return -sum(p * math.log(p) for p in (share, 1 - share) if p)


def cfb() -> tuple[Figure, Numbers]:
    """Which input channel reaches which output channel in the bypass (BiDense, Eqs. 12 and 13)."""
    figure = Figure(figsize=(8.0, 2.9), dpi=110, layout="constrained")
    numbers: Numbers = {}
    words = {"identity": "identity", "up": "copies", "down": "means", "mixed": "a copy and means"}
    for axes, (before, after) in zip(figure.subplots(1, 4), ((6, 6), (4, 8), (6, 2), (4, 6)), strict=True):
        shares = channel_bypass(torch.eye(before), after, dim=1).T
        numbers[f"{before} to {after}"] = [round(float(v), 4) for v in shares.flatten()]
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1.2)
        for row in range(after):
            for column in range(before):
                if shares[row, column] > 0:
                    text = {1.0: "1", 0.5: "½"}.get(float(shares[row, column]), "⅓")
                    colour = "white" if text == "1" else "black"
                    axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        title = f"{before} → {after} channels:\n{words[bypass_kind(before, after)]}"
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="input channel", xticks=range(before), yticks=range(after))
    figure.axes[0].set_ylabel("output channel")
    return figure, numbers


def costs() -> tuple[Figure, Numbers]:
    """The same pair of networks by four measures."""
    import binarize

    network = binarize.networks.create("upernet:convnext_tiny?num_classes=151")
    binary = binarize.apply(network, "bidense", form="table", example_inputs=torch.zeros(1, 3, 480, 480))
    size = (3, 480, 480)
    counted = {
        convention: [binarize.summary(model, size, convention=convention) for model in (network, binary)]
        for convention in ("paper", "honest")
    }
    operations = {name: [found.ops for found in pair] for name, pair in counted.items()}
    size_ratio = counted["honest"][0].packed_bytes / counted["honest"][1].packed_bytes
    ratios = {
        "operations, as printed in the paper": operations["paper"][0] / operations["paper"][1],
        "bytes": size_ratio,
        "operations, all counted": operations["honest"][0] / operations["honest"][1],
        "measured time, one CPU thread": 1417 / 255,  # docs/performance.md, Whole networks
    }
    figure = Figure(figsize=(8.0, 2.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(ratios), list(ratios.values()), color=[GREY, BLUE, BLUE, GREEN])
    axes.bar_label(bars, [f"{value:.1f} times" for value in ratios.values()], padding=4)
    axes.invert_yaxis()
    axes.set(xlabel="float network / BiDense network", xlim=(0, 64))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, {name: [round(value, 2)] for name, value in ratios.items()}


def method(name: str) -> tuple[Figure, Numbers]:
    """The gradients of a method, as `binarize methods show NAME --plot` draws them."""
    chosen = methods.create(name)
    numbers: Numbers = {}
    for progress in (0.0, 0.5, 1.0):
        _, activations, weights = surrogates(chosen, progress)
        numbers[f"activations, {progress}"] = listed(activations)
        numbers[f"weights, {progress}"] = listed(weights)
    _, _, opposite = surrogates(chosen, 0.0, -1.0)
    if listed(opposite) != numbers["weights, 0.0"]:
        numbers["weights, gradient below 0"] = listed(opposite)
    return draw(chosen), numbers


def drawings() -> dict[str, Drawing]:
    """All pictures, by the names of their files without `.png`."""
    fixed: dict[str, Drawing] = {
        "sign-and-gradients": sign_and_gradients,
        "latent-weights": latent_weights,
        "dab": dab,
        "cfb": cfb,
        "costs": costs,
    }
    built_in = [name for name in methods.names() if methods.get(name).__module__.startswith("binarize.")]
    return fixed | {f"method-{name}": (lambda name=name: method(name)) for name in built_in}


def as_png(figure: Figure, numbers: Numbers) -> bytes:
    """A small file of 64 colours, with the numbers in its metadata."""
    drawn, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    info = PngImagePlugin.PngInfo()
    info.add_text("Description", json.dumps(numbers), zip=True)
    image = Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(reduced, format="png", optimize=True, pnginfo=info)
    return reduced.getvalue()


def stored(path: Path) -> Numbers:
    """The numbers that a picture was drawn from."""
    with Image.open(path) as image:
        image.load()
        return json.loads(image.info["Description"])


def main(names: list[str]) -> None:
    """Draw these pictures, or all."""
    known = drawings()
    torch.manual_seed(0)
    for name in names or known:
        (HERE / f"{name}.png").write_bytes(as_png(*known[name]()))
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])

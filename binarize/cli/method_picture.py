"""A picture of a method's gradients: what passes the sign of an activation, and that of a latent weight."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from binarize.methods import Method

_COLOURS = ("#0072B2", "#D55E00", "#009E73")  # distinct for the colour-blind (Okabe and Ito)
_DASHES = ("-", "--", ":")
_POINTS = 201


def surrogates(method: Method, progress: float, upstream: float = 1.0) -> tuple[Any, Any, Any]:
    """Gradients of single binary activations and weights with regard to themselves.

    The derivative of the k-th of 201 values in one sample, or in one filter, when it alone moves: as a layer
    computes it, with its statistics of all 201. Schedules are those of `progress`; what follows the weights
    themselves stays as at the start: behind a rotation, a gradient is not a function of one weight alone.

    Args:
        method: the method.
        progress: of the training, 0 to 1.
        upstream: the loss's gradient for the binary value; what passes may depend on its sign.

    Returns:
        Values from -2 to 2, and for each the derivative of the activation and of the weight, (201,) each.
    """
    import torch
    from torch import nn

    from binarize.functional import quantize
    from binarize.layers import BinaryLayer, set_progress
    from binarize.methods import binary_layer

    values = torch.linspace(-2, 2, _POINTS)
    x = values.repeat(_POINTS, 1)[:, :, None, None]
    conv = nn.Conv2d(_POINTS, _POINTS, 1, bias=False)
    conv.weight.data.copy_(x)
    built = binary_layer(conv, method).eval()
    layer: Any = next(m for m in built.modules() if isinstance(m, BinaryLayer))
    set_progress(layer.quantizer, progress)
    if layer.weight_state is not None:
        layer.weight_state.set(progress)
    x.requires_grad_()
    each = upstream * torch.eye(_POINTS)[:, :, None, None]
    (activations,) = torch.autograd.grad(layer.quantizer(x), x, each)
    weights = torch.autograd.grad(quantize(layer.weight_rule, x, *layer.weight_parameters()), x, each)[0]
    of_activations, of_weights = (g.flatten(1).diagonal() / upstream for g in (activations, weights))
    return values, of_activations, of_weights


def draw(method: Method) -> Figure:
    """Plots of activations and of weights.

    Three curves where they change during training, two where they depend on the sign of the gradient that
    comes in.
    """
    from matplotlib.figure import Figure  # without pyplot: no screen, no state

    curves = {progress: surrogates(method, progress) for progress in (0.0, 0.5, 1.0)}
    opposite = surrogates(method, 0.0, -1.0)
    figure = Figure(figsize=(8.0, 3.6), dpi=120, layout="constrained")
    texts: dict[str, Any] = {}
    for index, axes in enumerate(figure.subplots(1, 2), start=1):
        lines = {f"after {progress:.0%} of training": found[index] for progress, found in curves.items()}
        first = lines["after 0% of training"]
        if all(line.equal(first) for line in lines.values()):
            lines = {"": first}
            if not opposite[index].allclose(first):
                name = ("y", "w'")[index - 1]
                lines = {f"dL / d{name} > 0": first, f"dL / d{name} < 0": opposite[index]}
        for (label, line), colour, dash in zip(lines.items(), _COLOURS, _DASHES, strict=False):
            (drawn,) = axes.plot(curves[0.0][0], line, dash, color=colour, linewidth=2)
            texts.setdefault(label, drawn)
        axes.set_title(("activations", "weights")[index - 1], fontsize=10)
        axes.set_xlabel(("input x of the sign", "latent weight w")[index - 1])
        axes.set_ylabel(("gradient that passes, dy / dx", "gradient that passes, dw' / dw")[index - 1])
        low, high = (
            min(0.0, *(float(v.min()) for v in lines.values())),
            max(map(float, map(max, lines.values()))),
        )
        margin = 0.06 * ((high - low) or 1.0)
        axes.set_ylim(low - margin, high + margin)
        axes.grid(alpha=0.3)
    texts.pop("", None)
    if texts:  # below the plots, where they hide nothing
        figure.legend(texts.values(), texts, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(f"{method.name} ({method.paper})", fontsize=11)
    return figure


def picture(method: Method) -> bytes:
    """The plots of `draw` as a PNG."""
    data = io.BytesIO()
    draw(method).savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()

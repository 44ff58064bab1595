"""XNOR-Net: Rastegari et al., ImageNet Classification Using Binary Convolutional Neural Networks, 2016.

arXiv 1603.05279.
Forward: sign(BN(x)), a BatchNorm of the layer's own in front of the sign. With c = w - mean over input
channels (dim 1) and v = clamp(c, -1, 1), weights are mean(abs(v)) * sign(v) per filter.
Backward: 1 for abs(.) <= 1, else 0, of both signs; the weights' scale and centring have their gradients.
Block: BN -> sign -> conv -> the network's own activation and residuals. The network's norm behind the layer
is removed.
Departures: the paper multiplies each position of the output by the mean of abs(x) around it, which its
authors' training code leaves out; `activation_scale` is the mean of abs(BN(x)), what the sign sees (abs(x)
with `input_norm=False`), over the whole sample (of a token: over its vector), as the BiBench benchmark has
it, not differentiated. Centring and clamp are part of the formula; the
authors change the latent weights themselves at each step. Filters of one channel are not centred: nothing
would be left of them. `scale_gradient=False` is STE[mean(abs(v)) sign(v); v], and with `centre=False` also
the benchmark's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from binarize.functional import Rule, sign
from binarize.functional.rules import Gradients, Stats
from binarize.functional.sign import clip_gradient
from binarize.functional.weights import filter_dims, mean_magnitude
from binarize.layers import LayerRecipe, Quantizer, SignForm, Site
from binarize.layers.norm import batch_norm
from binarize.layers.quantizers import channel_shape
from binarize.methods.base import Method, register_method
from binarize.methods.parts import norm_for


@dataclass(frozen=True)
class XNORSign(Rule):
    """Forward sign(x), times mean(abs(x)) of the sample with `scaled`; gradient of clamp(x, -1, 1).

    Attributes:
        scaled: see above.
        token: a sample is one vector of the last dim, not all but the first dim.
    """

    scaled: bool = False
    token: bool = False

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        if not self.scaled:
            return sign(x), ()
        over = [-1] if self.token else list(range(1, x.dim()))
        magnitude = x.abs().mean(over, keepdim=True)
        return sign(x, magnitude), (magnitude,)

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return sign(x, *stats)

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return (clip_gradient(grad, x),)


@dataclass(frozen=True)
class XNORWeights(Rule):
    """Forward m sign(v), m = mean(abs(v)), v = clamp(c, -1, 1), c = w - mean(w, dim 1).

    With `scale_gradient`, dv = g m + sign(v) mean(g sign(v)), else dv = g; dc = dv where abs(c) <= 1;
    dw = dc - mean(dc, dim 1).
    """

    centre: bool = True
    scale_gradient: bool = True
    symmetric: ClassVar[bool] = True

    def _centred(self, w: Tensor) -> Tensor:
        return w - w.mean(1, keepdim=True) if self._centres(w) else w

    def _centres(self, w: Tensor) -> bool:
        return self.centre and w.shape[1] > 1

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        c = self._centred(x)
        return sign(c, mean_magnitude(c.clamp(-1, 1) if self.centre or self.scale_gradient else c)), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        c = self._centred(x)
        if self.scale_gradient:
            signs = sign(c)
            shared = (grad * signs).mean(filter_dims(c), keepdim=True)
            grad = grad * mean_magnitude(c.clamp(-1, 1)) + signs * shared
        through = clip_gradient(grad, c)
        return (through - through.mean(1, keepdim=True) if self._centres(x) else through,)


class NormedSign(Quantizer):
    """sign(BN(x)), or sign(x).

    Args:
        rule: what follows the norm.
        norm: a BatchNorm, or None.
        shape: that broadcasts one value per channel over activations.
    """

    rule: XNORSign

    def __init__(self, rule: XNORSign, norm: nn.Module | None, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.rule = rule
        self.norm = norm
        self._shape = shape

    @property
    def needs_negatives(self) -> bool:
        return self.norm is None

    def prepare(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)

    def is_upper(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return x >= 0
        scale, shift = self._affine()
        return x * scale + shift >= 0

    def sign_form(self) -> SignForm | str:
        if self.rule.scaled:
            return "its activations are scaled by a mean of each sample (activation_scale)"
        if self.norm is None:
            return SignForm()
        scale, shift = self._affine()
        return SignForm(scale=scale, shift=shift)

    def _affine(self) -> tuple[Tensor, Tensor]:
        """The norm in evaluation mode: scale and shift, float64."""
        norm: Any = self.norm
        scale = norm.weight.detach().double() * torch.rsqrt(norm.running_var.double() + norm.eps)
        shift = norm.bias.detach().double() - norm.running_mean.double() * scale
        return scale.view(self._shape), shift.view(self._shape)


@register_method
@dataclass(frozen=True, kw_only=True)
class XNORNet(Method):
    """BatchNorm in front of sign, centred weights with a learnt scale, the network's own activation.

    Attributes:
        input_norm: a BatchNorm in front of sign; without it the layer has one behind, as other methods'.
        activation_scale: multiply binary activations by mean(abs(BN(x))) of the sample.
        centre: subtract the mean over input channels from latent weights.
        scale_gradient: gradients flow through the weights' scale.
    """

    name: ClassVar[str] = "xnor"
    paper: ClassVar[str] = "arXiv 1603.05279"
    year: ClassVar[int | None] = 2016

    input_norm: bool = True
    activation_scale: bool = False
    centre: bool = True
    scale_gradient: bool = True

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(
            quantizer=partial(self._quantizer, site),
            weight_rule=XNORWeights(self.centre, self.scale_gradient),
            bias=site.has_bias,
            norm="none" if self.input_norm else norm_for(site),
        )

    def _quantizer(self, site: Site) -> NormedSign:
        norm = batch_norm(site.in_channels, dim=site.dim, spatial=site.spatial) if self.input_norm else None
        shape = channel_shape(site.in_channels, site.dim, site.spatial)
        return NormedSign(XNORSign(self.activation_scale, site.kind == "token"), norm, shape)

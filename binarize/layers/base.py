"""What all binary layers share: quantized input, quantized weight, norm, inner activation, bypass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from binarize.conv_sizes import Pads
from binarize.functional import Geometry, Rule, binary_dense
from binarize.layers.bypass import Bypass
from binarize.layers.norm import batch_norm
from binarize.layers.quantizers import Quantizer
from binarize.layers.recipe import LayerRecipe, Site
from binarize.layers.stand_ins import DroppedBias, outputs_of
from binarize.layers.training_state import WeightState


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How a layer pads; takes precedence over its attributes.

    Attributes:
        pads: low and high side per spatial dim.
        mode: as of nn.Conv2d.
        same: by the size of the input, as TensorFlow's "SAME"; `pads` do not count then.
    """

    pads: Pads = ()
    mode: str = "zeros"
    same: bool = False

    def apply(self, layer: Any) -> None:
        """Make a binary convolution pad like this."""
        if self.same:
            layer.use_same_padding()
        else:
            layer.use_padding(self.pads, self.mode)


class BinaryLayer(nn.Module):
    """Mixin of the binary layers, used together with the float class whose arguments they take.

    Attributes:
        weight: latent weights, in the float layer's shape; one bit each when packed, or as many as
            `weight_rule.planes` says.
        bias: (Cout,) float, or None. Where the float layer has one and the method none, a placeholder with
            shape, dtype and device only (`DroppedBias`): forwards that test whether there is a bias take the
            same branch as before.
        quantizer: activation quantizer.
        weight_rule: latent to binary weights.
        weight_state: what the weight rule takes beside the weights, or None.
        weight_transform: applied to the latent weights first (weight standardization), or None.
        norm: normalization behind the convolution, or None.
        inner: activation between norm and bypass, or None.
        bypass: brings the input to the output's shape, or None.
        float_bias: whether the float layer has a bias, which the method may have dropped.
    """

    _float_class: ClassVar[type[nn.Module]]
    _taken: ClassVar[tuple[str, ...]]  # arguments of the float class that a layer holds as attributes
    weight: nn.Parameter
    bias: nn.Parameter | None
    quantizer: nn.Module
    weight_rule: Rule
    weight_state: WeightState | None
    weight_transform: nn.Module | None
    norm: nn.Module | None
    inner: nn.Module | None
    bypass: Bypass | None
    float_bias: bool = False

    @classmethod
    def from_float(
        cls,
        layer: nn.Module,
        recipe: LayerRecipe,
        site: Site,
        *,
        norm: bool = True,
        bypass: bool = True,
        explicit_padding: Padding | None = None,
        weight_transform: nn.Module | None = None,
        **geometry: Any,
    ) -> Self:
        """The binary layer that replaces a float one; the float weight becomes its latent weight.

        Args:
            layer: of the float class that this one replaces; its parameters are shared, it is not changed.
            recipe: the method's parts.
            site: the layer's place.
            norm: False leaves the recipe's norm out.
            bypass: False leaves the recipe's bypass out.
            explicit_padding: of a layer whose forward pads as the arguments of its class cannot express.
            weight_transform: applied to the latent weights first.
            **geometry: of a layer whose forward takes other values than its attributes (`stride`...).
        """
        known: Any = layer
        built = cls.__new__(cls)
        taken = {name: getattr(layer, name) for name in cls._taken} | {"bias": site.has_bias} | geometry
        with torch.device("meta"):  # no start values are needed
            cls._float_class.__init__(built, **taken)
        built._set_up(recipe, site, norm=norm, bypass=bypass)
        if explicit_padding is not None:
            explicit_padding.apply(built)
        built.weight_transform = weight_transform
        for child in built.children():  # not the layer itself: its own tensors are on the meta device still
            child.to(device=known.weight.device, dtype=known.weight.dtype)
        built.train(layer.training)
        built.weight = known.weight
        built._start_weight_state()
        if built.own_bias is not None:
            built.bias = known.bias
        return built

    def _set_up(self, recipe: LayerRecipe, site: Site, *, norm: bool, bypass: bool) -> None:
        """Set up all parts that the float class does not have."""
        raise NotImplementedError(f"{type(self).__name__} does not define _set_up()")

    def _assemble(self, recipe: LayerRecipe, site: Site, *, norm: bool, bypass: Bypass | None) -> None:
        self.quantizer = recipe.quantizer()
        self.weight_rule = recipe.weight_rule
        self.weight_transform = None
        self.norm = _norm(recipe, site) if norm else None
        self.inner = recipe.inner() if recipe.inner is not None else None
        self.bypass = bypass
        self.float_bias = site.has_bias
        self.weight_state = recipe.weight_state() if recipe.weight_state is not None else None
        self._start_weight_state()

    def _start_weight_state(self) -> None:
        """Give learnt numbers of the weights their start values, once there are weights."""
        if self.weight_state is not None and not self.weight.is_meta:
            self.weight_state.start(self._latent_filters().detach())

    def weight_parameters(self) -> tuple[Tensor, ...]:
        """What `weight_rule` takes beside the weights, in its order."""
        return () if self.weight_state is None else self.weight_state.rule_parameters()

    def follow_training(self, progress: float) -> None:
        """See `binarize.layers.set_progress`: what the weights' rule takes follows."""
        if self.weight_state is not None:
            self.weight_state.follow(progress, self._latent_filters)

    def _latent_filters(self) -> Tensor:
        """The latent weights as rules see them: whole, transformed, output filters first."""
        weight: Any = self.weight
        weight = weight.full_tensor() if hasattr(weight, "full_tensor") else weight  # FSDP holds a part of it
        if self.weight_transform is not None:
            weight = self.weight_transform(weight)
        groups = getattr(self, "groups", 1)
        return Geometry((), (), (), groups, isinstance(self, nn.ConvTranspose2d)).filters_first(weight)

    def __getattr__(self, name: str) -> Any:
        if name == "weight_state" and name not in self._modules:  # pickled by version 0.1.0
            return None
        value = super().__getattr__(name)
        if name == "bias" and value is None and self.float_bias:
            return DroppedBias((outputs_of(self),), self.weight)
        return value

    @property
    def own_bias(self) -> nn.Parameter | None:
        """The bias that the layer computes with."""
        return self._parameters["bias"]

    def _fused_quantizer(self) -> Quantizer | None:
        """The quantizer, if its rule can be fused into the layer's own function."""
        hooks = self.quantizer._forward_hooks or self.quantizer._forward_pre_hooks
        return self.quantizer if isinstance(self.quantizer, Quantizer) and not hooks else None

    def _dense(self, x: Tensor, geometry: Geometry | None, *, quantized: bool = False) -> Tensor:
        rule, params = None, ()
        fused = None if quantized else self._fused_quantizer()
        if fused is not None:  # what its rule takes may follow from what it sees
            x, rule, params = fused.prepare(x), fused.rule, fused.rule_parameters()
        elif not quantized:
            x = self.quantizer(x)
        weight = self.weight if self.weight_transform is None else self.weight_transform(self.weight)
        if geometry is not None:
            weight = geometry.filters_first(weight)
        if self.training and self.weight_state is not None:
            self.weight_state.prepare(weight.detach())
        return binary_dense(
            x,
            weight,
            self.own_bias,
            weight_rule=self.weight_rule,
            input_rule=rule,
            params=params,
            weight_params=self.weight_parameters(),
            geometry=geometry,
        )

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        return finish(self, y, x)

    def binary_weight(self) -> Tensor:
        """The weights that the layer computes with, in the latent weights' shape (detached)."""
        groups = getattr(self, "groups", 1)
        geometry = Geometry((), (), (), groups, isinstance(self, nn.ConvTranspose2d))
        return geometry.filters_back(self.binary_filters())

    def binary_filters(self) -> Tensor:
        """The same, output filters first (detached)."""
        with torch.no_grad():
            return self.weight_rule.quantize(self._latent_filters(), *self.weight_parameters())[0]


def finish(layer: Any, y: Tensor, x: Tensor) -> Tensor:
    """Apply what follows a layer's convolution: norm, inner activation and bypass, as far as it has them.

    Args:
        layer: holds `norm`, `inner` and `bypass`.
        y: result of the convolution; may be overwritten.
        x: input of the layer.
    """
    if layer.norm is not None:
        y = layer.norm(y)
    if layer.inner is not None:
        y = layer.inner(y)
    return y if layer.bypass is None else layer.bypass(x, y.shape[2:], y)


def _norm(recipe: LayerRecipe, site: Site) -> nn.Module | None:
    if recipe.norm in ("none", "own"):
        return None
    if recipe.norm == "layer":
        return nn.LayerNorm(site.out_channels, eps=1e-6)
    return batch_norm(site.out_channels, dim=site.dim, spatial=site.spatial)

"""A binary layer for inference: weights as bits, norm folded, all floats in one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.errors import ConfigError, TrainingError
from binarize.functional import Geometry
from binarize.layers import Bypass, StandsForLayer
from binarize.layers.base import finish
from binarize.native.library import available, warn_missing
from binarize.runtime.bits import unpack_signs
from binarize.runtime.kernels import Kernels
from binarize.runtime.lazy import Interpolated, Small, ordinary
from binarize.runtime.made_of import place_of
from binarize.runtime.pointwise import is_traced
from binarize.runtime.questions import why_not
from binarize.runtime.shapes import pads_of, result_shape
from binarize.runtime.spec import PackedSpec
from binarize.runtime.statistics import Link
from binarize.runtime.thresholds import quantized, thresholds_of

if TYPE_CHECKING:
    from binarize.runtime.stem import StemConv2d


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How kernels may work; the torch reference computes exactly and in torch's own threads.

    Attributes:
        threads: of native kernels; None for as many as torch has.
        exact_scales: False lets native kernels approximate scales that stand inside a sum (a DAB per
            channel).
    """

    threads: int | None = None
    exact_scales: bool = True


class PackedLayer(StandsForLayer):
    r"""A frozen binary layer: y = inner(norm(scale * P + offset * B + shift)) + bypass(x).

    P is the product of the quantized input with the weights' signs, B the sum of the quantized input under
    the kernel (only where weights are scale * sign + offset). The forward in plain torch is the reference
    that other implementations of `_compute` are measured against.

    Args:
        spec: everything but the numbers.
        norm: module for what `spec.norm` says, or None; it is taken over, its parameters become buffers.
        inner: likewise for `spec.inner`.

    Attributes:
        spec: see above.
        bits: (ceil(weights / 8),) uint8: the weights' signs, output filters first (`binarize.runtime.bits`).
        vectors: (sum of `spec.vectors()`,) float: scale, offset, shift and the quantizer's parameters.
        options: see `RuntimeOptions`.
        sums_for: with the layers that take the sums of the result's channels, or None.
        sums_from: with the layer that makes the sums of the input's channels, or None.
    """

    bits: Tensor
    vectors: Tensor
    sums_for: Link | None = None
    sums_from: Link | None = None
    _quick: Kernels | None = None  # those whose results are given as they are, after the first
    binarize_role = "conv"
    """To the engine, which records runs, it is one step."""

    def __init__(
        self,
        spec: PackedSpec,
        *,
        norm: nn.Module | None = None,
        inner: nn.Module | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self._options = RuntimeOptions()
        self.register_buffer("bits", torch.zeros(-(-spec.weights // 8), dtype=torch.uint8))
        self.register_buffer("vectors", torch.zeros(sum(spec.vectors().values()), dtype=dtype))
        self.norm = None if norm is None else without_parameters(norm)
        self.inner = None if inner is None else without_parameters(inner)
        self.bypass: Bypass | None = None
        if spec.bypass is not None:
            self.bypass = Bypass(
                spec.in_channels,
                spec.out_channels,
                stride=spec.stride,
                transposed=spec.kind == "transposed",
                fit=spec.bypass,  # type: ignore[arg-type] - checked where a spec is made
                dim=spec.dim,
            )
        self._signs: Tensor | None = None
        self._signs_of: tuple[int, int | None] = (0, None)
        self._kernels: Kernels | bool | None = False  # until somebody asks whether there can be any
        self._after: list[nn.Module] = []  # lists: they belong to the network, not to this layer
        self._lazy: list[Any] = []
        self._describe_as_float_layer()
        super().train(False)

    def _describe_as_float_layer(self) -> None:
        """The attributes that forwards of networks ask their layers for."""
        spec = self.spec
        self.float_shape = spec.weight_shape
        if spec.kind == "linear":
            self.in_features, self.out_features = spec.in_channels, spec.out_channels
            return
        self.in_channels, self.out_channels, self.groups = spec.in_channels, spec.out_channels, spec.groups
        self.kernel_size, self.stride, self.dilation = spec.kernel, spec.stride, spec.dilation
        self.padding = tuple(low for low, _ in spec.padding)
        self.output_padding = spec.output_padding or (0,) * len(spec.kernel)
        self.padding_mode, self.transposed = spec.padding_mode, spec.kind == "transposed"
        if self.transposed:
            self.float_shape = (spec.in_channels, spec.out_channels // spec.groups, *spec.kernel)

    def vector(self, name: str) -> Tensor:
        """One of the vectors of `spec.vectors()`, a view of `vectors`."""
        start = 0
        for other, length in self.spec.vectors().items():
            if other == name:
                return self.vectors[start : start + length]
            start += length
        raise ConfigError(f"this layer has no vector {name!r}; it has {list(self.spec.vectors())}.")

    def signs(self, dtype: torch.dtype) -> Tensor:
        """The weights' signs, +1 and -1: (Cout, Cin / groups, *kernel), output filters first."""
        return unpack_signs(self.bits, self.spec.weight_shape, dtype)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, Cin, ...) -> (N, Cout, ...), or (..., Cin) -> (..., Cout) if `linear`.

        Raises:
            TrainingError: if a gradient would have to pass.
        """
        quick = self._quick
        if quick is not None and type(input) is Tensor and output_size is None:
            usual = input.dtype == torch.float32 and input.is_cpu and not input.requires_grad
            usual = usual and input.numel() > 0 and not input.is_neg() and not is_traced(input)
            if usual and quick.current():
                return quick(input)
        if input.requires_grad and torch.is_grad_enabled():
            raise TrainingError(
                "a packed layer gives no gradient: its latent weights are gone. Run it under "
                "torch.no_grad(), or train the converted model and deploy it again."
            )
        return self._compute(input, output_size)

    def empty_result(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor | None:
        """An uninitialized tensor of the shape and dtype that the layer would give; None if it would fail."""
        extra = self.extra(output_size, x.shape[2:]) if self.spec.kind == "transposed" else ()
        shape = result_shape(self.spec, x.shape, extra)
        return None if shape is None else x.new_empty(shape)

    def _compute(self, x: Tensor, output_size: Sequence[int] | None) -> Tensor:
        """The whole layer, on the native kernels where they can."""
        x = x if type(x) is Interpolated else ordinary(x)
        plain = type(x) in (Tensor, Interpolated) and x.dtype == torch.float32
        if plain and x.device.type == "cpu" and x.numel() and not is_traced(x):
            x = x if type(x) is Interpolated else x.resolve_neg()  # kernels read the memory as it is
            kernels = self._native()
            lazy = self.lazy
            if kernels is not None and lazy == "behind" and kernels.whole and output_size is None:
                return kernels.behind(x)
            if kernels is not None:
                y = kernels(x, output_size)
                self._quick = None if self._lazy else kernels
                return Small.of(y.shape, lambda: y) if lazy == "small" else y
        return self.followed(self.reference(ordinary(x), output_size))

    def followed(self, y: Tensor) -> Tensor:
        """Through the activation that was taken over."""
        for activation in self._after:
            known: Any = activation
            y = known.activate(y) if hasattr(known, "activate") else known(y)
        return y

    @property
    def options(self) -> RuntimeOptions:
        """How kernels may work."""
        return self._options

    @options.setter
    def options(self, options: RuntimeOptions) -> None:
        self._options = options
        self._kernels, self._quick = False, None

    def take_activation(self, activation: nn.Module) -> None:
        """Do this activation of the network too, behind the bypass; its owner stays who it is."""
        self._after = [activation]
        self._kernels, self._quick = False, None

    @property
    def after(self) -> nn.Module | None:
        """The activation that was taken over, or None."""
        return self._after[0] if self._after else None

    def be_lazy(self, kind: Literal["behind", "small"], reader: tuple[nn.Module, str, nn.Module]) -> None:
        """Give a `Behind` or a `Small` (`binarize.runtime.lazy`) from now on.

        Args:
            kind: which.
            reader: for whom: (parent, its attribute, the module there), as long as it is there.
        """
        self._lazy, self._quick = [kind, *reader], None

    @property
    def lazy(self) -> str | None:
        """`behind`, `small`, or None if the result is given as it is."""
        if not self._lazy:
            return None
        kind, parent, name, reader = self._lazy
        return kind if parent._modules.get(name) is reader else None

    @property
    def reader(self) -> nn.Module | None:
        """The module that takes a lazy result on the way, or None."""
        return self._lazy[-1] if self.lazy else None

    def take_sums(self, maker: PackedLayer | StemConv2d) -> None:
        """Take the sums of the input's channels from what makes the input."""
        maker.sums_for = self.sums_from = maker.sums_for or Link()

    def _native(self) -> Kernels | None:
        if isinstance(self._kernels, Kernels) and not self._kernels.current():
            self._forget()
        if isinstance(self._kernels, bool):
            if not available():
                warn_missing()
            self._kernels = None if why_not(self) else Kernels(self)
        return self._kernels

    def prepare_reference(self) -> None:
        """Unpack the signs now, so that a graph which is made of `reference` holds them as constants."""
        self._kernel(self.vectors)

    def reference(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The whole layer in plain torch: exact, and slower."""
        thresholds = thresholds_of(self, x)
        product, window_sum = self._product(quantized(x, thresholds, self.spec.dim), output_size)
        return self._epilogue(product, window_sum, thresholds.sample_scale, x)

    def _product(
        self, values: Tensor, output_size: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Sums under the kernel: with the weights' signs, P, and with ones, B (None without `spec.offset`).

        For values of +-1, P is a whole number and exact.

        Args:
            values: (N, Cin, ...) or (..., Cin).
            output_size: of a transposed convolution, as in nn.ConvTranspose2d.

        Returns:
            (N, Cout, ...) or (..., Cout), and the same.
        """
        spec = self.spec
        weight = self._kernel(values)
        if spec.kind == "linear":
            window_sum = values.sum(-1, keepdim=True) if spec.offset else None
            return F.linear(values, weight), window_sum
        values, geometry = self._padded(values, output_size)
        product = geometry.convolve(values, weight, None)
        if not spec.offset:
            return product, None
        ones = geometry.filters_back(values.new_ones(spec.groups, *spec.weight_shape[1:]))
        window_sum = geometry.convolve(values, ones, None)
        return product, window_sum.repeat_interleave(spec.out_channels // spec.groups, 1)

    def _epilogue(
        self, product: Tensor, window_sum: Tensor | None, sample_scale: Tensor | None, x: Tensor
    ) -> Tensor:
        """Scale and shift, norm, activation, bypass."""
        y = product * self.channels("scale", product)
        if window_sum is not None:
            y = y + window_sum * self.channels("offset", product)
        if sample_scale is not None:
            y = y * sample_scale
        return self.behind(y + self.channels("shift", product), x)

    def behind(self, y: Tensor, x: Tensor) -> Tensor:
        """What follows scale and shift: norm, inner activation and bypass. `y` may be overwritten."""
        return finish(self, y, x)

    def channels(self, name: str, like: Tensor) -> Tensor:
        """A vector in the shape that broadcasts it over the channels of `like`."""
        vector = self.vector(name)
        return vector if self.spec.kind == "linear" else vector.view(1, -1, *(1,) * (like.dim() - 2))

    def _kernel(self, values: Tensor) -> Tensor:
        """The signs in the layout of torch's convolution; unpacked once and kept."""
        kept = self._signs
        compiling = torch.compiler.is_compiling()
        if kept is not None and not compiling and type(self.bits) is Tensor and not is_traced(values):
            kept = kept if self._signs_of == place_of(self.bits) else None
        if kept is None or kept.dtype != values.dtype or kept.device != values.device:
            kept = self.signs(values.dtype)
            if self.spec.kind == "transposed":
                kept = Geometry((), (), (), self.spec.groups, True).filters_back(kept).contiguous()
            if type(kept) is Tensor and not compiling:  # a graph must not change the module
                self._signs, self._signs_of = kept, place_of(self.bits)
        return kept

    def _padded(self, values: Tensor, output_size: Sequence[int] | None) -> tuple[Tensor, Geometry]:
        """The values with the padding that torch's convolution cannot do, and the geometry for the rest."""
        spec = self.spec
        pads = pads_of(spec, values.shape[2:])
        inside = spec.padding_mode == "zeros" and all(low == high for low, high in pads)
        padding = tuple(low if inside else 0 for low, _ in pads)
        if not inside:
            mode = "constant" if spec.padding_mode == "zeros" else spec.padding_mode
            values = F.pad(values, [side for pair in reversed(pads) for side in pair], mode=mode)
        transposed = spec.kind == "transposed"
        extra = self.extra(output_size, values.shape[2:]) if transposed else ()
        return values, Geometry(spec.stride, padding, spec.dilation, spec.groups, transposed, extra)

    def extra(self, output_size: Sequence[int] | None, size: Sequence[int]) -> tuple[int, ...]:
        """Output padding of a transposed convolution that makes `output_size` of a map of this size."""
        spec = self.spec
        if output_size is None:
            return spec.output_padding
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, (p, _), d, k in zip(
                size, spec.stride, spec.padding, spec.dilation, spec.kernel, strict=True
            )
        ]
        wanted = list(output_size)[-len(least) :]
        extra = tuple(want - low for want, low in zip(wanted, least, strict=True))
        if any(not 0 <= e < s for e, s in zip(extra, spec.stride, strict=True)):
            most = [low + s - 1 for low, s in zip(least, spec.stride, strict=True)]
            raise ConfigError(f"output_size={list(output_size)}: expected sizes from {least} to {most}.")
        return extra

    def train(self, mode: bool = True) -> PackedLayer:
        """Stays in evaluation mode, with all that it holds: there is nothing to train."""
        return super().train(False)

    def _forget(self) -> None:
        """Forget what was made of the bits and vectors."""
        self._signs, self._kernels, self._quick = None, False, None

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLayer:
        self._forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_signs": None, "_kernels": False, "_quick": None}

    def _reference(self) -> Tensor:
        return self.vectors

    def extra_repr(self) -> str:
        """Kind, channels, kernel and quantizer."""
        spec = self.spec
        kernel = f", kernel={spec.kernel}" if spec.kernel else ""
        stride = f", stride={spec.stride}" if any(s > 1 for s in spec.stride) else ""
        groups = f", groups={spec.groups}" if spec.groups > 1 else ""
        return (
            f"{spec.kind}, {spec.in_channels}, {spec.out_channels}{kernel}{stride}{groups}, "
            f"{spec.quantizer.kind}"
        )


def without_parameters(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode with its parameters as buffers of the same names; it is changed."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            del part._parameters[name]
            part.register_buffer(name, None if parameter is None else parameter.detach())
    return module.eval()

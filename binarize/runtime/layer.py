"""A binary layer for inference: weights as bits, norm folded, all floats in one vector."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from binarize.errors import TrainingError
from binarize.layers import StandsForLayer
from binarize.layers.base import finish
from binarize.native.library import available, warn_missing
from binarize.runtime import ops
from binarize.runtime.earlier import own_activations
from binarize.runtime.kernel_support import activation_of, rounding_error, why_not
from binarize.runtime.layer_data import LayerData, make_bypass, text_of_spec
from binarize.runtime.made_of import Mark, current, marks_of, place_of
from binarize.runtime.native_layer import NativeLayer
from binarize.runtime.native_planes import NativePlanes
from binarize.runtime.ops.arguments import arguments_of_activation
from binarize.runtime.packed_weights import native_layer
from binarize.runtime.reference import reference, weights_of
from binarize.runtime.shapes import extra_of, result_shape
from binarize.runtime.spec import PackedSpec
from binarize.runtime.tracing import is_traced, operators_wanted

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How kernels may work; the torch reference computes exactly and in torch's own threads.

    Attributes:
        threads: of native kernels; None for as many as torch has.
        exact_scales: True keeps native kernels from rounding scales that stand inside a sum (a DAB per
            channel). Rounded ones are up to twice as fast; `kernel_support.rounding_error` bounds the error,
            and where it could be too large, scales are exact anyhow.
        precision: `bf16` lets a network's program store float maps between packed layers, the stem's too, and
            copies of the weights of float linear layers on few rows as bfloat16: half the memory to write and
            to read. All sums stay float32. A value is rounded by at most 2^-8 of itself (0.4 %). Modules
            (without a program) and other float layers are not changed.
    """

    threads: int | None = None
    exact_scales: bool = False
    precision: Precision = "float32"


@dataclass
class _Made:
    """What was made of a layer's tensors, and of which.

    Attributes:
        weights: the signs of each plane as floats, for the reference.
        weight_of: place of the bits that `weights` were made of.
        native: what the kernels need; None where there is none.
        native_of: marks of the tensors that `native` was made of; None if it is not known whether there is
            one.
    """

    weights: tuple[Tensor, ...] | None = None
    weight_of: tuple[int, int | None] = (0, None)
    native: NativeLayer | NativePlanes | None = None
    native_of: tuple[Mark, ...] | None = None


class PackedLayer(StandsForLayer):
    r"""A frozen binary layer: y = inner(norm(scale * P + offset * B + shift)) + bypass(x).

    P is the product of the quantized input with the weights' signs (scale * P a sum, where weights or
    activations have several bits), B the sum of the quantized input under
    the kernel (only where weights are scale * sign + offset). `binarize.runtime.reference` computes it in
    torch, `binarize.runtime.native_layer` on the kernels; a whole network runs as a program
    (`binarize.runtime.program`), which takes this layer's tensors and not its forward.

    Args:
        spec: everything but the numbers.
        norm: module for what `spec.norm` says, or None; it is taken over, its parameters become buffers.
        inner: likewise for `spec.inner`.
        dtype: of the vectors; None for torch's default.

    Attributes:
        spec: see above.
        bits: (weight_planes * ceil(weights / 8),) uint8: the weights' signs, plane after plane, output
            filters first (see `packing.bits`).
        vectors: (sum of `spec.vectors()`,) float: scale, offset, shift and the quantizer's parameters.
        options: see `RuntimeOptions`.
    """

    bits: Tensor
    vectors: Tensor
    _behind: Sequence[nn.Module] = ()  # an activation that the layer took over in an earlier version
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
        self.register_buffer("bits", torch.zeros(spec.weight_planes * spec.plane_bytes, dtype=torch.uint8))
        self.register_buffer("vectors", torch.zeros(sum(spec.vectors().values()), dtype=dtype))
        self.norm = None if norm is None else without_parameters(norm)
        self.inner = None if inner is None else without_parameters(inner)
        self.bypass = make_bypass(spec)
        self._made = _Made()
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

    def data(self) -> LayerData:
        """The layer as data, with its tensors as they are now."""
        inner = activation_of(self.inner) if self.inner is not None else None
        return LayerData(spec=self.spec, bits=self.bits, vectors=self.vectors, inner=inner)

    def vector(self, name: str) -> Tensor:
        """One of the vectors of `spec.vectors()`, a view of `vectors`."""
        return self.data().vector(name)

    def signs(self, dtype: torch.dtype, plane: int = 0) -> Tensor:
        """The weights' signs, +1 and -1: (Cout, Cin / groups, *kernel), output filters first."""
        return self.data().signs(dtype, plane)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, Cin, ...) -> (N, Cout, ...), or (..., Cin) -> (..., Cout) if `linear`.

        Raises:
            TrainingError: if a gradient would have to pass.
        """
        if input.requires_grad and torch.is_grad_enabled():
            raise TrainingError(
                "a packed layer gives no gradient: its latent weights are gone. Run it under "
                "torch.no_grad(), or train the converted model and deploy it again."
            )
        if self._behind:
            return self._behind[0](self._alone(input, output_size))
        return self._alone(input, output_size)

    def _alone(self, input: Tensor, output_size: Sequence[int] | None) -> Tensor:
        if is_traced(input):
            as_operator = operators_wanted() and self.why_by_torch() is None
            return (self._operator if as_operator else self.reference)(input, output_size)
        if type(input) is Tensor and input.dtype == torch.float32 and input.is_cpu and input.numel():
            native = self.native_layer()
            y = None if native is None else native(input.resolve_neg(), output_size)
            if y is not None and native is not None:
                return y if native.whole else finish(self, y, input)
        return self.reference(input, output_size)

    def reference(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The whole layer in plain torch: exact, and slower."""
        weight = self._reference_weights
        return reference(self.data(), x, output_size, weight=weight, norm=self.norm, inner=self.inner)

    def prepare_reference(self) -> None:
        """Unpack the signs now, so that a graph which is made of `reference` holds them as constants."""
        self._reference_weights(self.vectors)

    def empty_result(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor | None:
        """An uninitialized tensor of the shape and dtype that the layer would give; None if it would fail."""
        extra = extra_of(self.spec, output_size, x.shape[2:]) if self.spec.kind == "transposed" else ()
        shape = result_shape(self.spec, x.shape, extra)
        return None if shape is None else x.new_empty(shape)

    @property
    def options(self) -> RuntimeOptions:
        """How kernels may work."""
        return self._options

    @options.setter
    def options(self, options: RuntimeOptions) -> None:
        self._options = options
        self._made.native_of = None

    def why_by_torch(self) -> str | None:
        """Why torch computes this layer; None if the kernels do."""
        return why_not(self.data(), exact_scales=self._options.exact_scales)

    def tolerance(self) -> float:
        """What rounded scales may change, relative to the layer's sums (root mean square); 0 if none are."""
        native = self.native_layer()
        return rounding_error(self.spec) if native is not None and native.rounded else 0.0

    def native_layer(self) -> NativeLayer | NativePlanes | None:
        """What the kernels need of this layer, for its tensors as they are now; None if torch computes it."""
        made = self._made
        if made.native_of is None or not current(made.native_of):
            if not available():
                warn_missing()
            options = self._options
            given = {"threads": options.threads, "exact_scales": options.exact_scales}
            marks = self._marks()  # before: the tensors can be moved by another thread while it is made
            made.native, made.native_of = native_layer(self.data(), **given), marks
        return made.native

    def _marks(self) -> tuple[Mark, ...]:
        """Marks of the tensors that kernels are made of: bits, vectors and those of the activation."""
        tables = [(self._buffers, name) for name in ("bits", "vectors")]
        return marks_of(tables, () if self.inner is None else self.inner.modules())

    def _operator(self, x: Tensor, output_size: Sequence[int] | None) -> Tensor:
        """The layer as operators; norms and activations that the kernels do not know stand behind it."""
        data, spec = self.data(), self.spec
        inner = arguments_of_activation(data.inner)
        known = (spec.inner is None or data.inner is not None) and inner is not None and not inner[1]
        whole = spec.norm is None and known
        if not whole:
            spec = dataclasses.replace(spec, norm=None, inner=None, bypass=None)
        arrays = [] if inner is None else inner[0]
        y, _ = ops.layer(
            x,
            self.bits,
            self.vectors,
            text_of_spec(spec),
            arrays if whole else [],
            [],
            exact_scales=self._options.exact_scales,
            threads=self._options.threads or 0,
            output_size=None if output_size is None else list(output_size),
        )
        if whole:
            return y
        norm: Any = self.norm
        if not known or self.spec.norm is None or self.spec.norm["kind"] != "layer":
            return finish(self, y, x)
        bypass = x if self.spec.bypass is not None else None
        return ops.normed(y, bypass, norm.weight, norm.bias, arrays, [], norm.eps)[0]

    def _reference_weights(self, like: Tensor) -> tuple[Tensor, ...]:
        """The signs in the layout of torch's convolution; unpacked once and kept."""
        kept = self._made.weights
        compiling = torch.compiler.is_compiling()
        if kept is not None and not compiling and type(self.bits) is Tensor and not is_traced(like):
            kept = kept if self._made.weight_of == place_of(self.bits) else None
        if kept is None or kept[0].dtype != like.dtype or kept[0].device != like.device:
            place = None if compiling or type(self.bits) is not Tensor else place_of(self.bits)
            kept = weights_of(self.data(), like)
            if type(kept[0]) is Tensor and place is not None:  # a graph must not change the module
                self._made.weights, self._made.weight_of = kept, place
        return kept

    def train(self, mode: bool = True) -> PackedLayer:
        """Stays in evaluation mode, with all that it holds: there is nothing to train."""
        return super().train(False)

    def _forget(self) -> None:
        """Forget what was made of the bits and vectors."""
        self._made = _Made()

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLayer:
        self._forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": _Made()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        earlier = "_made" not in state
        super().__setstate__(own_activations(state) | {"_made": _Made()} if earlier else state)

    def _reference(self) -> Tensor:
        return self.vectors

    def extra_repr(self) -> str:
        """Kind, channels, kernel and quantizer."""
        spec = self.spec
        kernel = f", kernel={spec.kernel}" if spec.kernel else ""
        stride = f", stride={spec.stride}" if any(s > 1 for s in spec.stride) else ""
        groups = f", groups={spec.groups}" if spec.groups > 1 else ""
        bits = f", W{spec.weight_planes}A{spec.quantizer.planes}" if spec.sum_of_binary else ""
        return (
            f"{spec.kind}, {spec.in_channels}, {spec.out_channels}{kernel}{stride}{groups}, "
            f"{spec.quantizer.kind}{bits}"
        )


def without_parameters(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode with its parameters as buffers of the same names; it is changed."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            del part._parameters[name]
            part.register_buffer(name, None if parameter is None else parameter.detach())
    return module.eval()

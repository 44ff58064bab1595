"""A convolution of quantized activations with quantized weights that saves neither of the two.

For the backward pass it keeps the float input, the latent weights and a few numbers per channel, and
computes both quantized tensors again when it needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from binarize.functional.fused import fused_rule, rule_for_gradient
from binarize.functional.rules import Rule
from binarize.native.training import has_memory


@dataclass(frozen=True)
class Geometry:
    """Stride, symmetric zero padding, dilation... of a convolution, one number per spatial dim.

    Attributes:
        stride: as torch's, as are all others.
        padding: on both sides.
        dilation: of the kernel.
        groups: of channels.
        transposed: whether it is a transposed convolution.
        output_padding: of a transposed one; empty for zeros.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution itself; the number of spatial dims is that of `stride`."""
        return torch.ops.aten.convolution(
            x,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding or (0,) * len(self.stride),
            self.groups,
        )

    def filters_first(self, weight: Tensor) -> Tensor:
        """A weight as rules expect it, output filters in dim 0; differs in transposed convolutions."""
        if not self.transposed:
            return weight
        cin, cout, *kernel = weight.shape  # (Cin, Cout / groups, ...)
        grouped = weight.reshape(self.groups, cin // self.groups, cout, *kernel)
        return grouped.transpose(1, 2).reshape(self.groups * cout, cin // self.groups, *kernel)

    def filters_back(self, weight: Tensor) -> Tensor:
        """The inverse of `filters_first`."""
        if not self.transposed:
            return weight
        cout, cin, *kernel = weight.shape  # (Cout, Cin / groups, ...)
        grouped = weight.reshape(self.groups, cout // self.groups, cin, *kernel)
        return grouped.transpose(1, 2).reshape(self.groups * cin, cout // self.groups, *kernel)


def _is_product(geometry: Geometry, x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution is a product of matrices as they lie in memory: of one tap, channels last.

    torch takes a slow path for those on one thread, with a pass for each image and copies between them.
    """
    if torch.compiler.is_compiling() or x.dim() != 4 or x.device.type != "cpu" or type(x) is not Tensor:
        return False
    one_tap = weight.shape[2:] == (1, 1) and geometry.stride == (1, 1) and geometry.padding == (0, 0)
    return one_tap and geometry.groups == 1 and not geometry.transposed and _rows(x) is not None


def _rows(x: Tensor) -> Tensor | None:
    """(N, C, H, W) as a matrix (N H W, C) without a copy, or None."""
    if not x.is_contiguous(memory_format=torch.channels_last) or x.numel() == 0:
        return None
    return x.detach().permute(0, 2, 3, 1).view(-1, x.shape[1])


def _product(left: Tensor, right: Tensor, shape: Sequence[int]) -> Tensor:
    """The matrix product as a map (N, C, H, W) whose channels are last in memory."""
    n, _, h, w = shape
    y = torch.empty((n, right.shape[1], h, w), dtype=left.dtype, memory_format=torch.channels_last)
    rows = _rows(y)
    if rows is not None:
        torch.mm(left, right, out=rows)
    return y


def _dense(geometry: Geometry | None, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if geometry is None:
        return torch.nn.functional.linear(x, weight, bias)
    if _is_product(geometry, x, weight) and (rows := _rows(x)) is not None:
        y = _product(rows, weight.flatten(1).t(), x.shape)
        return y if bias is None else y.add_(bias.view(1, -1, 1, 1))
    return geometry.convolve(x, geometry.filters_back(weight), bias)


def _dense_backward(
    geometry: Geometry | None, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, (filters-first) weight and bias of `_dense`."""
    if geometry is None:
        flat = grad.reshape(-1, grad.shape[-1])
        return (
            grad @ weight if wanted[0] else None,
            flat.t() @ x.reshape(-1, x.shape[-1]) if wanted[1] else None,
            flat.sum(0) if wanted[2] else None,
        )
    if has_memory(grad) and _is_product(geometry, x, weight) and (rows := _rows(x)) is not None:
        grad = grad.contiguous(memory_format=torch.channels_last)
        along = grad.permute(0, 2, 3, 1).reshape(rows.shape[0], -1)
        gw = torch.empty_like(weight) if wanted[1] else None  # with its strides: others are copied, DDP warns
        if gw is not None:
            torch.mm(along.t(), rows, out=gw.flatten(1))
        return (
            _product(along, weight.flatten(1), x.shape) if wanted[0] else None,
            gw,
            along.sum(0) if wanted[2] else None,
        )
    gx, gw, gb = torch.ops.aten.convolution_backward(
        grad,
        x,
        geometry.filters_back(weight),
        [grad.shape[1]] if wanted[2] else None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.transposed,
        geometry.output_padding or (0,) * len(geometry.stride),
        geometry.groups,
        wanted,
    )
    return gx, geometry.filters_first(gw) if gw is not None else None, gb


class _BinaryDense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        geometry: Geometry | None,
        input_rule: Rule | None,
        weight_rule: Rule,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        count: int,
        *params: Tensor,
    ) -> Tensor:
        of_input, of_weight = params[:count], params[count:]
        quantized, stats = input_rule.quantize(x, *of_input) if input_rule is not None else (x, ())
        binary, weight_stats = weight_rule.quantize(weight, *of_weight)
        kind = x.device.type
        # meta has no autocast; torch 2.9 compiles no call of is_autocast_available
        cast = kind != "meta" and torch.is_autocast_enabled(kind)
        ctx.dtype = torch.get_autocast_dtype(kind) if cast else None
        ctx.rules = (geometry, input_rule, weight_rule)
        ctx.counts = (len(stats), len(weight_stats), count)
        ctx.bias = bias is not None
        ctx.save_for_backward(x, weight, *stats, *weight_stats, *params)
        if ctx.dtype is not None:
            quantized, binary = quantized.to(ctx.dtype), binary.to(ctx.dtype)
            bias = bias.to(ctx.dtype) if bias is not None else None
        return _dense(geometry, quantized, binary, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        geometry, input_rule, weight_rule = ctx.rules
        x, weight, *rest = ctx.saved_tensors
        end, weight_end, split = ctx.counts[0], sum(ctx.counts[:2]), sum(ctx.counts)
        stats, weight_stats = tuple(rest[:end]), tuple(rest[end:weight_end])
        params, of_weight = rest[weight_end:split], rest[split:]
        inputs_wanted = ctx.needs_input_grad[3] or any(ctx.needs_input_grad[7 : 7 + len(params)])
        weight_wanted = ctx.needs_input_grad[4] or any(ctx.needs_input_grad[7 + len(params) :])
        if input_rule is not None:
            input_rule, stats = rule_for_gradient(grads[0], input_rule, x, stats, *params)
        weight_rule, weight_stats = rule_for_gradient(grads[0], weight_rule, weight, weight_stats, *of_weight)
        quantized = input_rule.rebuild(x, stats, *params) if input_rule is not None else x
        binary = weight_rule.rebuild(weight, weight_stats, *of_weight)
        if ctx.dtype is not None:
            quantized, binary = quantized.to(ctx.dtype), binary.to(ctx.dtype)
        wanted = (inputs_wanted, weight_wanted, ctx.bias and ctx.needs_input_grad[5])
        grad = grads[0].to(quantized.dtype)
        gx, gw, gb = _dense_backward(geometry, grad, quantized, binary, wanted)
        gx, gw, gb = (g.to(weight.dtype) if g is not None else None for g in (gx, gw, gb))
        del binary  # large, and the rules' gradients need memory too
        gweight, gof_weight = None, [None for _ in of_weight]
        if gw is not None:
            gweight, *gof_weight = weight_rule.gradient(gw, weight, weight_stats, *of_weight)
        gparams: list[Tensor | None] = [None for _ in params]
        if input_rule is not None and gx is not None:
            gx, *gparams = input_rule.gradient(gx, x, stats, *params, y=quantized.to(x.dtype))
        return None, None, None, gx, gweight, gb, None, *gparams, *gof_weight


def binary_dense(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    weight_rule: Rule,
    input_rule: Rule | None = None,
    params: tuple[Tensor, ...] = (),
    weight_params: tuple[Tensor, ...] = (),
    geometry: Geometry | None = None,
) -> Tensor:
    """Quantize input and weight, then convolve (or, without `geometry`, apply a linear map).

    Args:
        x: (N, Cin, ...) for a convolution, (..., Cin) for a linear map.
        weight: latent weights, output filters first (see `Geometry.filters_first`).
        bias: (Cout,) or None; float.
        weight_rule: turns latent into binary weights.
        input_rule: quantizes `x`; None if `x` is quantized already.
        params: what `input_rule` takes beside the input, in its order.
        weight_params: what `weight_rule` takes beside the weight, in its order.
        geometry: of the convolution; None for a linear map.

    Returns:
        (N, Cout, ...) or (..., Cout). Under autocast both operands are cast after quantization.
    """
    given = (*params, *weight_params)
    weight_rule = fused_rule(weight_rule, weight, *weight_params)
    if input_rule is not None:
        input_rule = fused_rule(input_rule, x, *params)
    return _BinaryDense.apply(geometry, input_rule, weight_rule, x, weight, bias, len(params), *given)

"""Structures, constants and signatures of `native/binarize.h`."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p

NOT_FINITE = 5
STATUS = {
    1: "an argument does not fit (a size, a pointer, or a kernel that reaches beyond the plane's border)",
    2: "there is not enough memory for scratch",
    3: "more taps or channels than the kernel can count",
    4: "this processor or build lacks the instruction set",
    NOT_FINITE: "scales that are not finite",
}
ISAS = {"auto": 0, "portable": 1, "avx2": 2, "avx512": 3, "amx": 4}
ABI_VERSION = 13
SLACK = 16
REGISTERS = 16  # of a pointwise step
COPY_DIMS = 6
STEPS = {
    name: number
    for number, name in enumerate(
        "layer stem pointwise layer_norm pool mean linear copy resize softmax attention".split()  # noqa: SIM905
    )
}
OPS = {
    name: number
    for number, name in enumerate(
        "add sub mul div min max neg abs relu clamp piecewise sigmoid silu tanh gelu gelu_tanh hardsigmoid "  # noqa: SIM905
        "hardswish exp sqrt rsqrt square elu softplus leaky affine add_scalar mul_scalar copy".split()
    )
}
RESIZE_MODES = {"bilinear": 0, "bilinear_aligned": 1, "nearest": 2, "nearest_exact": 3}


class PlaneShape(ctypes.Structure):
    """`bz_plane_shape`."""

    _fields_ = [(n, c_int32) for n in "images height width channels groups border_h border_w".split()]  # noqa: SIM905


class ConvShape(ctypes.Structure):
    """`bz_conv_shape`."""

    _fields_ = [
        ("input", PlaneShape),
        ("out_channels", c_int32),
        *((f"{n}_{axis}", c_int32) for n in ("kernel", "stride") for axis in "hw"),
        ("pad_top", c_int32),
        ("pad_left", c_int32),
        ("dilation_h", c_int32),
        ("dilation_w", c_int32),
        ("out_h", c_int32),
        ("out_w", c_int32),
        ("scale_groups", c_int32),
    ]


class Map(ctypes.Structure):
    """`bz_map`."""

    _fields_ = [
        ("data", c_void_p),
        *((n, c_int64) for n in ("image", "row", "pixel", "channel")),
        ("bf16", c_int32),
    ]


class Resize(ctypes.Structure):
    """`bz_resize`."""

    _fields_ = [(n, c_int32) for n in ("height", "width", "align_corners")]


class Activation(ctypes.Structure):
    """`bz_activation`."""

    _fields_ = [
        ("kind", c_int32),
        ("low", c_float),
        ("high", c_float),
        *((n, c_void_p) for n in ("before", "negative", "positive", "after")),
    ]


class Tail(ctypes.Structure):
    """`bz_tail`."""

    _fields_ = [("weights", c_void_p), ("add", c_void_p), ("channels", c_int32), ("out", Map)]


class Bits(ctypes.Structure):
    """`bz_bits`."""

    _fields_ = [("plane", c_void_p), ("shape", PlaneShape), ("mul", c_void_p), ("add", c_void_p)]


class Epilogue(ctypes.Structure):
    """`bz_epilogue`."""

    _fields_ = [
        ("mul", c_void_p),
        ("add", c_void_p),
        ("sample_scale", c_void_p),
        ("offset", c_void_p),
        ("midpoint", c_float),
        ("first", Activation),
        ("second", Activation),
        ("bypass", Map),
        ("bypass_channels", c_int32),
        ("bypass_resize", Resize),
        ("residual", Map),
        ("out", Map),
        ("sums", c_void_p),
        ("tail", Tail),
        ("bits", POINTER(Bits)),
    ]


class Dab(ctypes.Structure):
    """`bz_dab`."""

    _fields_ = [*((n, c_void_p) for n in "kba"), ("groups", c_int32), ("plain", c_int32)]


class Layer(ctypes.Structure):
    """`bz_layer`."""

    _fields_ = [
        ("conv", ConvShape),
        ("kind", c_int32),
        ("exact", c_int32),
        ("words", c_void_p),
        ("counts", c_void_p),
        ("dab", POINTER(Dab)),
        ("mul", c_void_p),
        ("add", c_void_p),
        ("x", Map),
        ("epilogue", Epilogue),
    ]


class Norm(ctypes.Structure):
    """`bz_norm`."""

    _fields_ = [*((n, c_void_p) for n in ("mean", "variance", "weight", "bias")), ("eps", ctypes.c_double)]


class Pool(ctypes.Structure):
    """`bz_pool`."""

    _fields_ = [(f"{n}_{axis}", c_int32) for n in ("kernel", "stride", "pad", "out") for axis in "hw"]


class Step(ctypes.Structure):
    """`bz_step`."""

    _fields_ = [("kind", c_int32), ("reserved", c_int32), ("arguments", c_void_p)]


class LayerStep(ctypes.Structure):
    """`bz_layer_step`."""

    _fields_ = [
        ("layer", POINTER(Layer)),
        *((n, c_void_p) for n in ("x", "sums_of_x", "bypass", "out", "sums", "scratch")),
        ("residual", Map),
        ("tail", Tail),
        ("resize", Resize),
        ("plane", c_void_p),
        ("bits", POINTER(Bits)),
    ]


class StemStep(ctypes.Structure):
    """`bz_stem_step`."""

    _fields_ = [
        ("shape", POINTER(ConvShape)),
        ("x", Map),
        ("weights", c_void_p),
        ("norm", POINTER(Norm)),
        ("pool", POINTER(Pool)),
        ("epilogue", POINTER(Epilogue)),
    ]


class Instruction(ctypes.Structure):
    """`bz_instruction`."""

    _fields_ = [
        *((n, c_int32) for n in ("op", "to", "a", "b")),
        ("p", c_float),
        ("q", c_float),
        ("v", c_void_p * 4),
    ]


class Result(ctypes.Structure):
    """`bz_result`."""

    _fields_ = [("source", c_int32), ("reserved", c_int32), ("out", Map), ("sums", c_void_p)]


_SIZES = [(n, c_int32) for n in ("images", "height", "width", "channels")]


class PointwiseStep(ctypes.Structure):
    """`bz_pointwise_step`."""

    _fields_ = [
        *_SIZES,
        *((n, c_int32) for n in ("operands", "instructions", "results", "reserved")),
        ("operand", POINTER(Map)),
        ("instruction", POINTER(Instruction)),
        ("result", POINTER(Result)),
    ]


class LayerNormStep(ctypes.Structure):
    """`bz_layer_norm_step`."""

    _fields_ = [
        *_SIZES,
        ("x", Map),
        ("out", Map),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("eps", ctypes.c_double),
        ("sums", c_void_p),
        ("first", Activation),
        ("second", Activation),
        ("bypass", Map),
        ("bypass_channels", c_int32),
        ("residual", Map),
    ]


class PoolStep(ctypes.Structure):
    """`bz_pool_step`."""

    _fields_ = [
        *((n, c_int32) for n in ("images", "channels", "height", "width")),
        ("geometry", Pool),
        *((n, c_int32) for n in ("average", "count_include_pad", "divisor", "adaptive")),
        ("x", Map),
        ("out", Map),
        ("sums", c_void_p),
    ]


class MeanStep(ctypes.Structure):
    """`bz_mean_step`."""

    _fields_ = [*_SIZES, ("x", Map), ("sums", c_void_p), ("out", c_void_p)]


class LinearStep(ctypes.Structure):
    """`bz_linear_step`."""

    _fields_ = [
        *((n, c_int32) for n in ("rows", "inputs", "outputs", "op")),
        ("x", c_void_p),
        ("x_row", c_int64),
        ("weights", c_void_p),
        ("weights_row", c_int64),
        ("bf16_weights", c_void_p),
        ("add", c_void_p),
        ("p", c_float),
        ("q", c_float),
        ("y", c_void_p),
        ("y_row", c_int64),
    ]


class CopyStep(ctypes.Structure):
    """`bz_copy_step`; `from_` is its `from`."""

    _fields_ = [
        ("dims", c_int32),
        ("value", c_float),
        *((n, c_int64 * COPY_DIMS) for n in ("size", "from_", "to")),
        ("x", c_void_p),
        ("y", c_void_p),
    ]


class ResizeStep(ctypes.Structure):
    """`bz_resize_step`."""

    _fields_ = [
        *((n, c_int32) for n in ("images", "channels", "height", "width", "out_h", "out_w", "mode")),
        ("step_h", c_float),
        ("step_w", c_float),
        ("x", Map),
        ("out", Map),
        ("sums", c_void_p),
    ]


class SoftmaxStep(ctypes.Structure):
    """`bz_softmax_step`."""

    _fields_ = [
        ("rows", c_int64),
        ("length", c_int32),
        ("factor", c_float),
        ("x", c_void_p),
        ("x_row", c_int64),
        ("y", c_void_p),
        ("y_row", c_int64),
    ]


class Heads(ctypes.Structure):
    """`bz_heads`."""

    _fields_ = [("data", c_void_p), *((n, c_int64) for n in ("image", "window", "head", "row"))]


class AttentionStep(ctypes.Structure):
    """`bz_attention_step`."""

    _fields_ = [
        *((n, c_int32) for n in "images windows heads rows columns depth values masked_is_zero".split()),  # noqa: SIM905
        ("factor", c_float),
        *((n, Heads) for n in "qkv"),
        ("bias", Heads * 2),
        ("out", Heads),
    ]


class Values(ctypes.Structure):
    """`bz_values`."""

    _fields_ = [
        *((n, c_int64) for n in ("images", "positions", "channels")),
        *((n, c_int32) for n in ("channels_last", "reserved")),
    ]


class Signs(ctypes.Structure):
    """`bz_signs`."""

    _fields_ = [
        ("threshold", c_void_p),
        ("magnitude", c_void_p),
        ("per_image", c_int32),
        ("reserved", c_int32),
    ]


class Pieces(ctypes.Structure):
    """`bz_pieces`."""

    _fields_ = [
        *((n, c_void_p) for n in ("before", "negative", "positive", "after")),
        *((n, c_int32) for n in ("flat_at_zero", "reserved")),
    ]


_PLANE, _CONV, _MAP, _EPILOGUE = POINTER(PlaneShape), POINTER(ConvShape), POINTER(Map), POINTER(Epilogue)
_INT, _RESIZE = ctypes.c_int, POINTER(Resize)
_VALUES, _DAB, _SIGNS, _PIECES = POINTER(Values), POINTER(Dab), POINTER(Signs), POINTER(Pieces)
SIGNATURES = {
    "bz_abi_version": (_INT, []),
    "bz_build_info": (ctypes.c_char_p, []),
    "bz_cpu_features": (ctypes.c_char_p, []),
    "bz_isa_available": (_INT, [_INT]),
    "bz_set_isa": (_INT, [_INT]),
    "bz_get_isa": (_INT, []),
    "bz_peak": (_INT, [_INT, c_int64, POINTER(ctypes.c_double)]),
    "bz_plane_words": (c_int64, [_PLANE]),
    "bz_channel_sums": (_INT, [_INT, _INT, _PLANE, _MAP, c_void_p]),
    "bz_pack": (_INT, [_INT, _INT, _PLANE, _MAP, _RESIZE, c_void_p, c_void_p, c_int64, c_void_p, c_void_p]),
    "bz_pack_dab": (
        _INT,
        [_INT, _INT, _PLANE, _MAP, _RESIZE, POINTER(Dab), c_void_p, c_void_p, c_void_p, c_void_p],
    ),
    "bz_weight_words": (c_int64, [_CONV]),
    "bz_weight_counts": (c_int64, [_CONV]),
    "bz_pack_weights": (_INT, [_INT, _CONV, c_void_p, c_void_p, c_void_p]),
    "bz_conv": (_INT, [_INT, _INT, _CONV, c_void_p, c_void_p, c_void_p, _EPILOGUE]),
    "bz_conv_int": (_INT, [_INT, _INT, _CONV, c_void_p, c_void_p, c_void_p, c_void_p]),
    "bz_depthwise_words": (c_int64, [_CONV]),
    "bz_depthwise_counts": (c_int64, [_CONV]),
    "bz_pack_depthwise": (_INT, [_CONV, c_void_p, c_void_p, c_void_p]),
    "bz_depthwise": (_INT, [_INT, _INT, _CONV, c_void_p, c_void_p, c_void_p, _EPILOGUE]),
    "bz_depthwise_int": (_INT, [_INT, _INT, _CONV, c_void_p, c_void_p, c_void_p, c_void_p]),
    "bz_scaled_words": (c_int64, [_INT, _CONV]),
    "bz_pack_scaled": (_INT, [_INT, _CONV, c_void_p, c_void_p]),
    "bz_conv_scaled": (_INT, [_INT, _INT, _CONV, c_void_p, c_void_p, c_void_p, _INT, _EPILOGUE]),
    "bz_layer_scratch": (c_int64, [c_void_p]),
    "bz_run": (_INT, [_INT, _INT, c_int64, c_void_p, POINTER(c_int64)]),
    "bz_stem": (_INT, [_INT, _INT, _CONV, _MAP, c_void_p, POINTER(Norm), POINTER(Pool), _EPILOGUE]),
    "bz_train_signs": (_INT, [_INT, _INT, _VALUES, _SIGNS, *(c_void_p,) * 2]),
    "bz_train_signs_backward": (_INT, [_INT, _INT, _VALUES, _SIGNS, *(c_void_p,) * 4]),
    "bz_train_dab": (_INT, [_INT, _INT, _VALUES, _DAB, *(c_void_p,) * 3]),
    "bz_train_dab_backward": (_INT, [_INT, _INT, _VALUES, _DAB, *(c_void_p,) * 5]),
    "bz_train_pieces": (_INT, [_INT, _INT, _VALUES, _PIECES, *(c_void_p,) * 2]),
    "bz_train_pieces_backward": (_INT, [_INT, _INT, _VALUES, _PIECES, *(c_void_p,) * 4]),
    "bz_train_bypass": (_INT, [_INT, _INT, *(c_int64,) * 3, *(c_void_p,) * 2]),
    "bz_train_bypass_backward": (_INT, [_INT, _INT, *(c_int64,) * 3, *(c_void_p,) * 2]),
}

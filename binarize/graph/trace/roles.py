"""The role of a module or function in the engine: convolution, norm, activation, gate, layout..."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from binarize.layers import BiasPReLU, Maxout

Role = Literal[
    "conv",
    "linear",
    "norm",
    "act",
    "gate",
    "drop",
    "identity",
    "layout",
    "add",
    "mul",
    "scale",
    "cat",
    "split",
    "pool",
    "pad",
    "upsample",
    "attention",
    "matmul",
    "other",
]

ACTIVATIONS = {
    *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish"),
    *("Hardswish", "Softplus", "Softsign", "Hardtanh"),
    *("Swish", "SwishMe", "MishMe", "HardSwish", "HardSwishMe", "HardMish", "HardMishMe", "QuickGELU"),
    *("GELUTanh", "StarReLU", "SimpleGELU"),
}
GATES = {
    *("Sigmoid", "Hardsigmoid", "Tanh", "Softmax", "Softmax2d", "LogSoftmax", "LogSigmoid", "Hardshrink"),
    *("HardSigmoid", "HardSigmoidMe", "Threshold"),
}
DROPS = {"DropPath", "StochasticDepth", "DropBlock2d", "PatchDropout"}
SCALES = {"LayerScale", "LayerScale2d"}
OWN_ACTIVATIONS = (BiasPReLU, Maxout)
"""Activations that conversions add."""
# Not subclasses of torch.nn norms, but norms by what they compute.
NORMS = {"FrozenBatchNorm2d", "FrozenBatchNormAct2d", "RmsNorm", "RmsNorm2d", "SimpleNorm", "SimpleNorm2d"}
RESPONSE_NORMS = {"GlobalResponseNorm", "GRN"}
_NORM_BASES = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)
_POOLS = (
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_PADS = (
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
)
_LAYOUT_MODULES = (nn.Flatten, nn.Unflatten)

_FUNCTIONS: dict[str, Role] = {
    **dict.fromkeys(("add", "iadd", "radd"), "add"),
    **dict.fromkeys(("mul", "imul", "rmul", "multiply", "div", "truediv", "idiv", "itruediv"), "mul"),
    **dict.fromkeys(
        ("relu", "relu6", "leaky_relu", "gelu", "silu", "mish", "hardswish", "elu", "celu", "selu", "prelu"),
        "act",
    ),
    **dict.fromkeys(("softplus", "hardtanh"), "act"),
    **dict.fromkeys(("sigmoid", "hardsigmoid", "tanh", "softmax", "log_softmax"), "gate"),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "drop_path"), "drop"),
    **dict.fromkeys(
        (
            "permute",
            "transpose",
            "reshape",
            "view",
            "flatten",
            "unflatten",
            "contiguous",
            "movedim",
            "moveaxis",
        ),
        "layout",
    ),
    **dict.fromkeys(
        ("squeeze", "unsqueeze", "to", "type_as", "float", "half", "bfloat16", "clone"), "layout"
    ),
    **dict.fromkeys(("swapaxes", "swapdims", "detach", "pixel_shuffle", "channel_shuffle"), "layout"),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack", "setitem"), "cat"),
    **dict.fromkeys(("split", "chunk", "unbind", "tensor_split", "getitem"), "split"),
    **dict.fromkeys(("interpolate", "upsample", "grid_sample"), "upsample"),
    **dict.fromkeys(("mean", "amax", "max", "std", "var", "sum", "avg_pool1d", "avg_pool2d"), "pool"),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"), "pool"),
    **dict.fromkeys(("adaptive_max_pool2d", "boolean_dispatch", "lp_pool2d"), "pool"),
    **dict.fromkeys(("layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm"), "norm"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "conv"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "conv"),
    **dict.fromkeys(("matmul", "rmatmul", "bmm", "einsum", "baddbmm", "mm"), "matmul"),
    "linear": "linear",
    "pad": "pad",
    "scaled_dot_product_attention": "attention",
}


def module_role(module: nn.Module) -> Role | None:
    """The role of a module that is one step to the engine, or None for a container.

    A class can set its own role as `binarize_role`.
    """
    own: Role | None = getattr(type(module), "binarize_role", None)
    if own is not None:
        return own
    name = type(module).__name__
    named = "" if _holds_layers(module) else name  # a container may have a step's name
    if isinstance(module, (nn.modules.conv._ConvNd,)):
        return "conv"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, _NORM_BASES) or name in NORMS or name in RESPONSE_NORMS:
        return "norm"
    if named in ACTIVATIONS or isinstance(module, OWN_ACTIVATIONS):
        return "act"
    if named in GATES:
        return "gate"
    if isinstance(module, nn.modules.dropout._DropoutNd) or named in DROPS:
        return "drop"
    if named in SCALES:
        return "scale"
    if isinstance(module, nn.Identity):
        return "identity"
    if isinstance(module, _POOLS):
        return "pool"
    if isinstance(module, _PADS):
        return "pad"
    if isinstance(module, (nn.Upsample,)):
        return "upsample"
    if isinstance(module, (nn.PixelShuffle, *_LAYOUT_MODULES)):
        return "layout"
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    return None


def known_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module has for its users: a class can name the one that it stands for.

    `deploy` changes classes, and sets `binarize_stands_for`.
    """
    return getattr(type(module), "binarize_stands_for", type(module))


def _holds_layers(module: nn.Module) -> bool:
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return bool(module._modules) and any(isinstance(inner, kinds) for inner in module.modules())


def function_role(function: Any) -> Role:
    """The role of a torch function or tensor method, by its name."""
    name = getattr(function, "__name__", str(function))
    name = name[2:-2] if name.startswith("__") and name.endswith("__") else name.rstrip("_")
    return _FUNCTIONS.get(name, "other")


def is_batch_norm(module: nn.Module) -> bool:
    """BatchNorm of any rank with tensors of its own to take over."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def fused_activation(module: nn.Module) -> nn.Module | None:
    """The activation inside a norm+act module (BatchNormAct2d...), or None."""
    act = getattr(module, "act", None)
    if not isinstance(act, nn.Module) or isinstance(act, nn.Identity):
        return None
    return act


def fused_drop(module: nn.Module) -> nn.Module | None:
    """The dropout inside a norm+act module, or None."""
    drop = getattr(module, "drop", None)
    if not isinstance(drop, nn.Module) or isinstance(drop, nn.Identity):
        return None
    return drop

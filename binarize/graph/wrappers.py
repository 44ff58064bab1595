"""Models inside wrappers: of torch.compile and of data parallelism.

Wrappers are recognized by the names of their classes: none of them is imported here.
"""

from __future__ import annotations

from torch import nn

PARALLEL = {"DistributedDataParallel", "DataParallel"}


def uncompiled(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's wrapper; any other model as it is."""
    while any(cls.__name__ == "OptimizedModule" for cls in type(model).__mro__):
        model = model._modules["_orig_mod"] or model
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers that add nothing to its state: of torch.compile and data parallelism."""
    while (inner := uncompiled(model)) is not model or is_one_of(model, PARALLEL):
        model = inner if inner is not model else model._modules["module"] or inner
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether some part of `model` is compiled, in place or by a wrapper."""
    return any(
        module.__dict__.get("_compiled_call_impl") is not None or uncompiled(module) is not module
        for module in model.modules()
    )


def is_one_of(module: nn.Module, names: set[str]) -> bool:
    """Whether a class of the module has one of these names."""
    return any(cls.__name__ in names for cls in type(module).__mro__)

"""The form of a layer whose class has a forward of its own: found by watching it run, not by its name.

Such a forward may pad, call `super().forward`, `_conv_forward` or a function of torch with the layer's
weight, and standardize that weight first. A forward that does more (norms, activations, cropping) has no
form; a graph can still take it apart.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from binarize.conv_sizes import Pads, reach, same_pads
from binarize.methods.forms import (
    DENSE,
    Form,
    NoFormError,
    arguments_of,
    computed,
    form_of_call,
    padded,
)
from binarize.methods.standardization import Standardization, standardization_of

_PRODUCTS = {"matmul", "__matmul__", "mm"}
# Functions that need a tensor's properties, not its values.
_SILENT = {
    *("size", "dim", "numel", "nelement", "stride", "is_contiguous", "__len__", "get_device"),
    *("is_floating_point", "is_complex", "element_size", "ndimension"),
}


def has_own_forward(layer: nn.Module, base: type[nn.Module]) -> bool:
    """Whether the class of `layer` overrides `forward` or `_conv_forward` of `base`."""
    cls = getattr(type(layer), "binarize_stands_for", type(layer))  # if deployed: the class before
    return any(
        getattr(cls, name, None) is not getattr(base, name, None) for name in ("forward", "_conv_forward")
    )


def form_of(layer: nn.Module) -> Form:
    """The form of a convolution or linear layer whose class has a forward of its own.

    A copy of the layer runs on inputs of several sizes, in training and evaluation mode; the result must be
    that of the form. The layer is left as it is; it may be without data (meta device).

    Raises:
        NoFormError: the message says what its forward does instead.
    """
    takes = list(inspect.signature(type(layer).forward).parameters.values())[1:]
    if len(takes) != 1 or takes[0].kind in (takes[0].VAR_POSITIONAL, takes[0].VAR_KEYWORD):
        raise NoFormError("takes more than one input")
    try:
        twin: Any = _twin(layer)
    except Exception as error:  # whatever a class does when it is copied
        raise NoFormError(f"cannot be copied ({type(error).__name__})") from None
    shapes = _shapes(layer)
    with torch.random.fork_rng(devices=[]):  # a forward may draw in training
        trials = [_trial(twin.eval(), shape) for shape in shapes]
        trials.append(_trial(twin.train(), shapes[0]))
        watched = [*trials, _trial(twin.eval(), _large(layer, shapes[-1]), dry=True)]
    plain = [dataclasses.replace(trial.form, pads=()) for trial in watched]
    if any(form != plain[0] for form in plain):
        raise NoFormError("computes differently for other sizes, or in training")
    pads, same = _common_pads(watched)
    form = dataclasses.replace(
        plain[0],
        pads=((0, 0),) * len(pads) if same else pads,
        same=same,
        standardization=_standardization(twin, trials),
    )
    if twin.bias is not None and not form.bias:
        raise NoFormError("does not add its bias where it applies its weight")
    for trial in trials:
        expected = computed(twin, form, trial.x)
        if not torch.allclose(trial.y, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
            raise NoFormError("gives other values than its convolution")
    return form


@dataclass
class _Trial:
    x: Tensor
    y: Tensor
    form: Form  # with this trial's pads
    by_function: bool  # not all padding is the operation's own
    weight: Tensor


def _twin(layer: Any) -> nn.Module:
    """A copy on the CPU with numbers of its own: small weights, so that an eps in their norm counts."""
    memo: dict[int, Any] = {}
    generator = torch.Generator().manual_seed(0)
    with torch.device("cpu"):
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                value = torch.randn(parameter.shape, generator=generator)
                value = value * 3e-3 if name in ("weight", "bias") else 1 + value / 10
                memo[id(parameter)] = nn.Parameter(value, False)
        for tensor in (*layer.parameters(), *layer.buffers()):
            if id(tensor) not in memo:
                value = torch.ones(tensor.shape) if tensor.is_meta else tensor.detach().cpu().clone()
                value = value.float() if tensor.is_floating_point() else value.to(tensor.dtype)
                memo[id(tensor)] = nn.Parameter(value, False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(layer, memo)


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    """Shapes of inputs to try: sizes of all remainders that can matter to a stride."""
    if isinstance(layer, nn.Linear):
        n = layer.in_features
        return [(2, 3, n), (1, n), (2, 2, 3, n)]
    sides = zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
    base = [2 * reach(k, d) + s for k, d, s in sides]
    steps = sorted({0, 1, *(s - 1 for s in layer.stride), *layer.stride})
    return [(1, layer.in_channels, *(n + step + i for i, n in enumerate(base))) for step in steps]


def _large(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an input like a network's, as large as is cheap."""
    if isinstance(layer, nn.Linear):
        return (3, 50, layer.in_features)
    spatial = len(shape) - 2
    room = int((100_000 / layer.in_channels) ** (1 / spatial))
    return (*shape[:2], *(max(n, min(room, 223 + i)) for i, n in enumerate(shape[2:])))


class _Watch(TorchFunctionMode):
    """Records which functions act on the input up to the output, and which act on the weight."""

    def __init__(self, layer: Any, x: Tensor, *, dry: bool) -> None:
        super().__init__()
        self._layer = layer
        self._dry = dry
        self.now = x
        self.pads: list[tuple[list[int], str]] = []
        self.calls: list[dict[str, Any]] = []
        self._of_weight = {id(layer.weight)}
        self._alive: list[Any] = []  # so that their ids are not given to other objects

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        result = _blank(func, args, kwargs) if self._dry and name in DENSE else func(*args, **kwargs)
        if name in _SILENT or (name == "__get__" and not isinstance(result, Tensor)):
            return result
        self._alive.append((args, kwargs, result))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if name in DENSE | _PRODUCTS and self._apply(name, args, kwargs):
            self.now = result
        elif any(t is self.now for t in inputs) or any(t is self._layer.bias for t in inputs):
            if result is not self.now:
                self._step(name, args, kwargs, inputs, result)
        elif inputs and all(id(t) in self._of_weight or isinstance(t, nn.Parameter) for t in inputs):
            self._of_weight |= {id(t) for t in tree_leaves(result) if isinstance(t, Tensor)}
        elif inputs:
            raise NoFormError(f"also computes {name.strip('_')}()")
        return result

    def _apply(self, name: str, args: Any, kwargs: Any) -> bool:
        """Note a call with the layer's weight, or with one that was made of it."""
        given = {**arguments_of(name, args, kwargs), "name": name}
        if "weight" not in given:
            return False
        if given["input"] is not self.now or id(given["weight"]) not in self._of_weight:
            return False
        if self.calls:
            raise NoFormError("applies its weight more than once")
        if name in _PRODUCTS:  # that it is the transposed one shows in the values
            given = {"weight": self._layer.weight, "name": "linear"}
        self.calls.append(given)
        return True

    def _step(self, name: str, args: Any, kwargs: Any, inputs: list[Tensor], result: Any) -> None:
        bias, sums = self._layer.bias, name.strip("_") == "add" and len(inputs) == 2
        if sums and self.calls and self.calls[0].get("bias") is None and any(t is bias for t in inputs):
            self.calls[0]["bias"], self.now = bias, result
            return
        given = {**dict(zip(("input", "pad", "mode", "value"), args, strict=False)), **kwargs}
        plain = name == "pad" and len(inputs) == 1 and not self.calls and not given.get("value")
        if not plain:
            raise NoFormError(f"also computes {name.strip('_')}()")
        self.pads.append(([int(n) for n in given["pad"]], given.get("mode", "constant")))
        self.now = result


def _blank(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Zeros in the shape of a function's result, without the arithmetic."""
    args, kwargs = tree_map(lambda v: v.to("meta") if isinstance(v, Tensor) else v, (args, kwargs))
    return torch.zeros(func(*args, **kwargs).shape)


def _trial(layer: Any, shape: tuple[int, ...], *, dry: bool = False) -> _Trial:
    count = torch.Size(shape).numel()
    x = torch.sin(torch.arange(count, dtype=torch.float32, device="cpu")).reshape(shape)
    given_x, weight = x.clone(), layer.weight.clone()
    watch = _Watch(layer, x, dry=dry)
    try:
        with torch.no_grad(), watch:
            y = layer.forward(x)
    except NoFormError:
        raise
    except Exception as error:  # whatever user code raises
        text = str(error).strip().splitlines()
        told = text[0][:80] if text else type(error).__name__
        raise NoFormError(f"fails on an input of {'x'.join(map(str, shape))}: {told}") from None
    if not watch.calls:
        raise NoFormError("does not apply its weight by a function known here")
    if not isinstance(y, Tensor) or y is not watch.now:
        raise NoFormError("gives something else than the result of its convolution")
    if not torch.equal(weight, layer.weight) or not torch.equal(given_x, x):
        raise NoFormError("changes its weight or its input")
    given = watch.calls[0]
    if given.get("bias") is not None and given["bias"] is not layer.bias:
        raise NoFormError("changes its bias")
    form, own = form_of_call(given, layer)
    pads, mode = padded(watch.pads, own, layer)
    by_function = any(any(amounts) for amounts, _ in watch.pads)
    return _Trial(x, y, dataclasses.replace(form, pads=pads, mode=mode), by_function, given["weight"])


def _common_pads(trials: list[_Trial]) -> tuple[Pads, bool]:
    """The pads of all trials, or that they follow the "SAME" rule."""
    pads = [trial.form.pads for trial in trials]
    if any(trial.by_function for trial in trials) and trials[0].form.mode == "zeros":
        rule = [
            same_pads(trial.x.shape[2:], trial.weight.shape[2:], trial.form.stride, trial.form.dilation)
            for trial in trials
        ]
        if pads == rule:
            return pads[0], True
    if any(found != pads[0] for found in pads):
        raise NoFormError("pads by the size of its input, by a rule that is not known here")
    return pads[0], False


def _standardization(twin: Any, trials: list[_Trial]) -> Standardization | None:
    if all(trial.weight is twin.weight for trial in trials):
        return None
    found = standardization_of(twin, trials[0].weight)
    if found is None:
        raise NoFormError("changes its weight before it applies it")
    return found

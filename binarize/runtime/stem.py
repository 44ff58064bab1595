"""The float stem of a deployed network: convolution, batch norm, activation and max-pool in one go.

The modules stay where they are, with their names and tensors; `fuse` changes their classes. The convolution
makes the result of all of them and gives a `Begun`, which each of the others passes on; the last one takes
the result out. Whatever else is done with a `Begun` sees an ordinary tensor that torch made. Where anything
is not plain (training, gradients, tracing, other dtypes) each module does its own work on torch.

The kernel reads the network's own memory at each call, so that changes of any kind are seen. Python after a
kernel that has filled the caches takes ten times as long as usual: what does not change is prepared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from binarize.bounded_cache import BoundedCache
from binarize.graph.trace.dataflow import Flow
from binarize.graph.trace.roles import known_class
from binarize.layers import BiasPReLU, Maxout, RPReLU
from binarize.native.epilogue import Activation, Epilogue
from binarize.native.instruction_set import resolve
from binarize.native.library import available, warn_missing
from binarize.native.stem import PreparedStem, out_size
from binarize.native.types import MaxPool, Norm
from binarize.runtime.lazy import Lazy, ordinary, unchanged
from binarize.runtime.pointwise import is_traced
from binarize.runtime.questions import activation_of
from binarize.runtime.seen import free, steps
from binarize.runtime.statistics import Link, hand_over

_CHANNELS = 16  # most input channels: there a stem gains 2 to 5 %, and less with more
_WEIGHTS = 1 << 16  # most of them: they are ordered anew at each call, and read from the second cache
_SHAPES = 8  # of maps that a stem remembers


class Parts(NamedTuple):
    """What stands behind a stem's convolution, in this order; at least one of them is there."""

    norm: Any = None
    act: Any = None
    pool: Any = None

    @property
    def there(self) -> tuple[nn.Module, ...]:
        """Those that there are."""
        return tuple(module for module in self if module is not None)


class Begun(Lazy):
    """What a module of a stem would give, where the result of the whole stem is known.

    Attributes:
        rest: the modules behind it.
        result: of the last of them; None once it went on to the next `Begun`, or out.
    """

    rest: tuple[nn.Module, ...]
    result: Tensor | None


class StemConv2d(nn.Conv2d):
    """A convolution of few channels that does what follows it, too.

    Attributes:
        parts: what follows.
        sums_for: with the layers that take the sums of the result's channels, or None.
    """

    binarize_stands_for = nn.Conv2d
    parts: Parts
    sums_for: Link | None = None
    _threads: int | None  # of the kernel; None for as many as torch has
    _ready: BoundedCache[Any, PreparedStem]

    def forward(self, input: Tensor) -> Tensor:
        """(N, Cin, H, W) -> (N, Cout, H', W')."""
        x = ordinary(input).resolve_neg()  # the kernel reads the memory as it is
        prepared = self._prepared(x) if self._plain(x) else None
        if prepared is None:
            return super().forward(x)
        sums: Tensor | None = None
        if self.sums_for is not None:
            sums = torch.empty(len(x), self.out_channels, dtype=torch.float32, device="cpu")
        y = prepared(x, sums)
        if self.sums_for is not None and sums is not None:
            hand_over(self.sums_for, y, sums)
        check, convolve = unchanged(x), super().forward

        def make() -> Tensor:
            check()
            return convolve(x)

        shape = (len(x), self.out_channels, *prepared.size)
        return Begun.of(shape, make, rest=self.parts.there, result=y)

    def _plain(self, x: Tensor) -> bool:
        """Whether only the result of the whole stem counts, and the kernel can make it."""
        functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
        norm = self.parts.norm
        usual = type(x) is Tensor and x.dtype == torch.float32 and x.device.type == "cpu" and x.dim() == 4
        if not usual or (norm is not None and (norm.training or norm.running_mean is None)):
            return False
        if is_traced(x) or functorch.peek_interpreter_stack() is not None:
            return False
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self._tensors()))
        return not learns and not torch.is_autocast_enabled("cpu")

    def _tensors(self) -> list[Tensor]:
        """All that the modules hold."""
        modules = (self, *self.parts.there)
        holders = [held for module in modules for held in (module._parameters, module._buffers)]
        return [t for held in holders for t in held.values() if t is not None]

    def _prepared(self, x: Tensor) -> PreparedStem | None:
        """A call for maps as `x`, which reads the network's own memory; None if torch is to take it."""
        norm, act, pool = self.parts
        numbers = (
            None if norm is None else norm.eps,
            None if pool is None else (pool.kernel_size, pool.stride, pool.padding),
            (act.min_val, act.max_val) if isinstance(act, nn.Hardtanh) else None,
        )
        tensors = self._tensors()
        if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
            return None
        places = [t.data_ptr() for t in tensors]
        key = (x.shape, x.stride(), self.stride, self.padding, numbers, torch.get_num_threads(), *places)
        found = self._ready.get(key)
        if found is None:
            found = self._prepare(x, tensors)
            if found is not None and found.addresses <= set(places):  # no copies, which would become old
                self._ready.keep(key, found)
        return found

    def _prepare(self, x: Tensor, tensors: list[Tensor]) -> PreparedStem | None:
        if not available():  # the network was deployed where it is
            warn_missing()
            return None
        norm, act, pool = self.parts
        for t in tensors:
            usual = t.dtype == torch.float32 or not t.dtype.is_floating_point
            if not usual or t.device.type != "cpu":
                return None
        window = None if pool is None else _max_pool(pool)
        size = out_size(x.shape[2:], self.kernel_size, self.stride, self.padding)  # pyright: ignore[reportArgumentType]
        last = size if window is None else window.out_size(size)
        if x.shape[1] != self.in_channels or not x.numel() or min(*size, *last) < 1:
            return None  # torch knows what to say
        return PreparedStem(
            x,
            self.weight,
            Epilogue(add=self.bias, first=_activation(act, self.out_channels)),
            norm=None if norm is None else _norm(norm),
            stride=self.stride,
            padding=self.padding,  # pyright: ignore[reportArgumentType]
            pool=window,
            threads=self._threads,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_ready": BoundedCache(_SHAPES)})


class _Behind:
    """Of a module behind a stem's convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """As the module's own, or what the convolution made of it already."""
        own: Callable[[Tensor], Tensor] = super().forward  # pyright: ignore[reportAttributeAccessIssue]
        if type(input) is not Begun:
            return own(input)
        result, (first, *rest) = input.result, input.rest
        if first is not self or result is None or not input.waits:
            return own(input.made())
        input.result = (
            None  # whoever calls this module once more with the same input gets a tensor of his own
        )
        inplace = getattr(self, "inplace", False)
        before = input.make if inplace else input.made
        passed = (
            Begun.of(input.shape, lambda: own(before()), rest=tuple(rest), result=result) if rest else result
        )
        if inplace:  # what it was given is changed
            input.make = lambda: ordinary(passed)
        return passed

    def _get_name(self) -> str:
        return known_class(self).__name__  # pyright: ignore[reportArgumentType]


class _BatchNorm2d(_Behind, nn.BatchNorm2d):
    binarize_stands_for, binarize_role = nn.BatchNorm2d, "norm"


class _ReLU(_Behind, nn.ReLU):
    binarize_stands_for, binarize_role = nn.ReLU, "act"


class _ReLU6(_Behind, nn.ReLU6):
    binarize_stands_for, binarize_role = nn.ReLU6, "act"


class _Hardtanh(_Behind, nn.Hardtanh):
    binarize_stands_for, binarize_role = nn.Hardtanh, "act"


class _PReLU(_Behind, nn.PReLU):
    binarize_stands_for, binarize_role = nn.PReLU, "act"


class _BiasPReLU(_Behind, BiasPReLU):
    binarize_stands_for, binarize_role = BiasPReLU, "act"


class _RPReLU(_Behind, RPReLU):
    binarize_stands_for, binarize_role = RPReLU, "act"


class _Maxout(_Behind, Maxout):
    binarize_stands_for, binarize_role = Maxout, "act"


class _MaxPool2d(_Behind, nn.MaxPool2d):
    binarize_stands_for, binarize_role = nn.MaxPool2d, "pool"


_ACTIVATIONS = (_ReLU, _ReLU6, _Hardtanh, _PReLU, _BiasPReLU, _RPReLU, _Maxout)
_CLASSES: dict[Any, Any] = {
    known.binarize_stands_for: known for known in (_BatchNorm2d, *_ACTIVATIONS, _MaxPool2d)
}
_PLACES = {"norm": 0, "act": 1, "pool": 2}


def find_stems(flow: Flow) -> Iterator[tuple[nn.Conv2d, Parts, fx.Node]]:
    """Float convolutions of few channels with what follows each, and the step that makes the result.

    Alone, torch's convolution is as fast as the kernel, or up to a third faster: what is gained is the way to
    memory and back of what follows. Measured over usual stems of 224x224, in both memory formats: on AVX-512
    as fast as torch's modules (3x3, 16 channels) to 3.7 times as fast (7x7 with RPReLU and pool); on AVX2 1.1
    to 3.5 times with a pool, 0.75 to 1.3 times without one; slower in portable C++.
    """
    if not available():
        warn_missing()
        return
    isa = resolve()
    if isa not in ("avx2", "avx512"):
        return
    order = steps(flow)
    following = dict(itertools.pairwise(order))
    for path, calls in flow.calls.items():
        conv = flow.modules.get(path)
        if not isinstance(conv, nn.Conv2d) or not _can_begin(conv) or not free(flow, path) or len(calls) != 1:
            continue
        parts: list[Any] = [None, None, None]
        last, place = calls[0], -1
        while (step := following.get(last)) is not None and set(last.users) == {step}:
            module = flow.module(step)
            known = _CLASSES.get(type(module))
            if module is None or known is None or not _can_follow(module, conv.out_channels):
                break
            path = str(step.target)
            if _PLACES[known.binarize_role] <= place or not free(flow, path) or len(flow.calls[path]) != 1:
                break
            place = _PLACES[known.binarize_role]
            parts[place], last = module, step
        if parts[2] is not None or (place >= 0 and isa == "avx512"):
            yield conv, Parts(*parts), last


def join(conv: nn.Conv2d, parts: Parts, threads: int | None) -> None:
    """Let the convolution do the work of the modules behind it; in place."""
    stem: Any = conv
    stem.__class__ = StemConv2d
    stem.parts, stem._threads, stem._ready = parts, threads, BoundedCache(_SHAPES)
    for module in parts.there:
        module.__class__ = _CLASSES[type(module)]


def _can_begin(conv: nn.Conv2d) -> bool:
    plain = type(conv) is nn.Conv2d and "forward" not in conv.__dict__
    usual = conv.groups == 1 and set(conv.dilation) == {1} and conv.padding_mode == "zeros"
    small = conv.in_channels <= _CHANNELS and conv.weight.numel() <= _WEIGHTS
    return plain and usual and small and isinstance(conv.padding, tuple)


def _can_follow(module: nn.Module, channels: int) -> bool:
    if "forward" in module.__dict__:
        return False
    if isinstance(module, nn.BatchNorm2d):
        return module.running_mean is not None and module.num_features == channels
    if isinstance(module, nn.MaxPool2d):
        rest = (module.dilation, module.return_indices, module.ceil_mode)
        return rest in ((1, False, False), ((1, 1), False, False))
    if isinstance(module, (BiasPReLU, Maxout)) and not module.of_maps:
        return False
    sizes = {t.numel() for t in module.parameters()}
    return sizes <= ({1, channels} if isinstance(module, nn.PReLU) else {channels})


def _activation(module: nn.Module | None, channels: int) -> Activation:
    if isinstance(module, nn.PReLU):
        return Activation(kind="piecewise", negative=module.weight.detach().expand(channels))
    if isinstance(module, nn.ReLU6):
        return Activation(kind="clamp", low=0.0, high=6.0)
    return activation_of(module) or Activation()


def _norm(norm: nn.BatchNorm2d) -> Norm:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise RuntimeError("no running statistics")
    return Norm(mean=mean, variance=variance, weight=norm.weight, bias=norm.bias, eps=norm.eps)


def _max_pool(pool: nn.MaxPool2d) -> MaxPool:
    parts = (pool.kernel_size, pool.stride, pool.padding)
    kernel, stride, padding = ((n, n) if isinstance(n, int) else (n[0], n[1]) for n in parts)
    return MaxPool(kernel=kernel, stride=stride, padding=padding)

"""Single layers of a network as if they were float (or binary), without a change of the network.

A layer y = inner(norm(z)) + bypass(x) has z = conv(q(x), Q(w)) as a binary layer. As a float one it has
z' = conv(x, w), from its float input and latent weights. A network that was not trained with z' does not know
its mean and size, so each channel of z' gets those of z: z'' = (z' - mean z') std z / std z' + mean z, means
and deviations being those of some images in the unchanged network. A float layer is made binary in the same
way: z is its output, z' that of the method's binary layer, without norm and bypass.
"""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from binarize import graph
from binarize.errors import ConfigError
from binarize.inspect.applicable import is_float, needs_latent_weights
from binarize.inspect.running import Batch, Report, images_of, run_batches
from binarize.layers import BinaryLayer
from binarize.layers.base import finish
from binarize.methods import Method, binary_layer
from binarize.model_info import plan_of
from binarize.training.stages import FloatWeights


class Swap:
    """One layer and its other form.

    Args:
        name: of the layer in the float network, as `--keep` takes it.
        layer: in the network.
        own: gives z from the layer's arguments; None where that is the layer's own output.
        other: gives z'.
        bits: of a binary weight, and of its work: bits of weights times bits of activations.
    """

    def __init__(
        self, name: str, layer: Any, own: nn.Module | None, other: nn.Module, bits: tuple[int, int]
    ) -> None:
        self.name, self.layer = name, layer
        self.weights = int(layer.weight.numel())
        self.bits = bits
        self._own, self._other = own, other
        self._dim = -1 if isinstance(layer, nn.Linear) else 1
        self._sums: Tensor | None = None  # (4, C): z, z^2, z', z'^2
        self._count = self._uses = 0

    def calibrate(self, args: Any, kwargs: Any, output: Tensor) -> None:
        """Note the moments of z and z', and the work, in one call of the layer."""
        z = output if self._own is None else self._own(*args, **kwargs)
        both = [t.movedim(self._dim, -1).flatten(0, -2).double() for t in (z, self._other(*args, **kwargs))]
        found = torch.stack([s for t in both for s in (t.sum(0), t.square().sum(0))])
        self._sums = found if self._sums is None else self._sums + found
        self._count += len(both[0])
        # each weight is used once at each position of the map on the kernel's side
        side = args[0] if isinstance(self.layer, nn.ConvTranspose2d) else z
        self._uses += side.numel() // side.shape[self._dim]

    def macs(self, images: int) -> float:
        """Multiply-accumulates for one image, if `images` were used."""
        return self._uses * self.weights / images

    def output(self, args: Any, kwargs: Any) -> Tensor:
        """The layer's output in its other form."""
        if self._sums is None:
            raise RuntimeError(f"{self.name} was not called")
        z = self._other(*args, **kwargs)
        mean, square, mean_other, square_other = self._sums / self._count
        size = (square - mean.square()).clamp_min(0.0).sqrt()
        size_other = (square_other - mean_other.square()).clamp_min(0.0).sqrt()
        gain = torch.where(size_other > 0, size / size_other, 0.0)
        shape = [-1] if self._dim == -1 else [1, -1, *[1] * (z.dim() - 2)]
        gain, shift = (v.to(z.dtype).view(shape) for v in (gain, mean - gain * mean_other))
        return z * gain + shift if self._own is None else finish(self.layer, z * gain + shift, args[0])


class LayerSwaps:
    """The layers of a network that can take their other form.

    Args:
        model: a converted network, whose binary layers can become float; or a float one, of which those
            layers can become binary that `method` converts. It is not changed.
        batches: images (N, 3, H, W) for the moments, a few dozen in all.
        method: for a float network; its thresholds and scales are those of a start.
        report: called with the number of images done.

    Attributes:
        to_float: whether layers become float; else binary.
        swaps: those that the images reached, in the order of their first calls.
        images: how many were used.

    Raises:
        ConfigError: a packed network, a float one without a method, or no images.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        *,
        method: str | Method | None = None,
        report: Report | None = None,
    ) -> None:
        needs_latent_weights(model, "sensitivity")
        given = list(batches)
        self.to_float = not is_float(model)
        if self.to_float:
            swaps = _to_float(model)
        elif method is None:
            raise ConfigError("sensitivity: a float network needs a method that makes layers binary.")
        else:
            if not given:
                raise ConfigError(
                    "sensitivity: no images were given; expected batches of images (N, 3, H, W)."
                )
            swaps = _to_binary(model, method, images_of(given[0])[:1])
        called: dict[int, Swap] = {}

        def look(swap: Swap) -> Callable[..., None]:
            def hook(module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
                called.setdefault(id(swap), swap).calibrate(args, kwargs, output)

            return hook

        def hooks(size: Callable[[], int]) -> Iterator[RemovableHandle]:
            for swap in swaps:
                yield swap.layer.register_forward_hook(look(swap), with_kwargs=True)

        self.images = run_batches(model, given, hooks, report)
        self.swaps = tuple(called.values())

    @contextlib.contextmanager
    def swapped(self, names: Sequence[str]) -> Iterator[None]:
        """Within the block, the layers of these names, with all their parts, have their other form."""
        chosen = [swap for swap in self.swaps if swap.name in set(names)]
        handles = [
            swap.layer.register_forward_hook(_replacing(swap), with_kwargs=True, prepend=True)
            for swap in chosen
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _replacing(swap: Swap) -> Callable[..., Tensor]:
    def hook(module: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        return swap.output(args, kwargs)

    return hook


def _to_float(model: nn.Module) -> list[Swap]:
    plan = plan_of(model)
    rows = [] if plan is None else [row.name for row in plan.converted]
    swaps = []
    for path, layer in model.named_modules():
        if not isinstance(layer, BinaryLayer):
            continue
        own, other = _bare(layer), _bare(layer)
        other.quantizer = nn.Identity()
        other.weight_rule = FloatWeights()
        planes = layer.weight_rule.planes
        bits = (planes, planes * int(getattr(layer.quantizer, "planes", 1)))
        swaps.append(Swap(_row_of(path, rows), layer, own, other, bits))
    return swaps


def _to_binary(model: nn.Module, method: str | Method, example: Tensor) -> list[Swap]:
    plan = graph.plan(model, method, example_inputs=example)
    modules = dict(model.named_modules())
    swaps = []
    for row in plan.converted:
        layer: Any = modules[row.name]
        unsigned = row.nonnegative == ((0, row.in_shape[1 if row.site_kind == "conv" else -1]),)
        given: dict[str, Any] = {"kind": "pointwise"} if row.site_kind == "pointwise" else {}
        given |= {"norm": False, "bypass": False, "nonnegative_input": unsigned}
        other = binary_layer(layer, method, **given).eval()
        parts = [m for m in other.modules() if isinstance(m, BinaryLayer)]
        planes = parts[0].weight_rule.planes
        work = planes * int(getattr(parts[0].quantizer, "planes", 1))
        swaps.append(Swap(row.name, layer, None, other, (planes * len(parts), work * len(parts))))
    return swaps


def _bare(layer: Any) -> Any:
    """The layer without norm, inner activation, bypass and hooks, with the same tensors."""
    bare = copy.copy(layer)
    bare.__dict__["_modules"] = {**layer._modules, "norm": None, "inner": None, "bypass": None}
    for table in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs"):
        bare.__dict__[table] = OrderedDict()
    return bare


def _row_of(path: str, rows: Sequence[str]) -> str:
    """The layer of the float network that a binary layer stands for, or is a part of."""
    above = [row for row in rows if path == row or path.startswith(f"{row}.")]
    return max(above, key=len, default=path)

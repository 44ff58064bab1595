"""Activation quantizers as modules: a rule together with its learnable parameters.

`dim` is the channel dimension: 1 for (N, C, ...), where parameters have shape (1, C, 1, 1) (as many
trailing ones as `spatial`), or -1 for channels-last tensors, where they have shape (C,).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binarize.functional import (
    AdaBinSet,
    ApproxSign,
    DabRule,
    RedistributedSign,
    Rule,
    ShiftedSign,
    SteSign,
    SteStep,
    quantize,
)
from binarize.functional.dab import Granularity, Scale, Threshold, group_bounds
from binarize.layers.forms import LevelForm, SignForm
from binarize.layers.training_state import Numbers, Schedule


def channel_shape(channels: int, dim: int, spatial: int) -> tuple[int, ...]:
    """The shape that broadcasts one value per channel over activations."""
    return (1, channels, *(1,) * spatial) if dim == 1 else (channels,)


class Quantizer(nn.Module):
    """Base of activation quantizers: subclasses set `rule` and list their parameters.

    A quantizer whose result in evaluation mode is a sign of its input says so in `sign_form`: packed layers
    compute it from that. Each class says it for itself, a subclass does not inherit it. One of more than one
    bit says how many in `planes`, and its levels in `level_form`.

    Attributes:
        rule: forward and backward.
        values: text for the plan: the set of its values, if it is neither +-1 times a scale nor the method's
            usual one.
    """

    rule: Rule
    values: str = ""

    def rule_parameters(self) -> tuple[Tensor, ...]:
        """The tensors that the rule takes beside the input, in its order."""
        return ()

    @property
    def planes(self) -> int:
        """How many bits its values have."""
        return 1

    @property
    def needs_negatives(self) -> bool:
        """Whether its result is +1 on all nonnegative inputs, and no learnt parameter can change that."""
        return False

    @property
    def needs_zeros(self) -> bool:
        """Whether its result is constant on positive inputs, and no learnt parameter can change that."""
        return False

    def prepare(self, x: Tensor) -> Tensor:
        """What the rule is applied to, of the shape of `x`: `x` itself, or a norm of it.

        In training mode it may keep statistics of `x`.
        """
        return x

    def centring(self, mean: Tensor) -> tuple[nn.Parameter, Tensor] | None:
        """The parameter that shifts its threshold, 0 at the start, and the value that puts it to `mean`.

        Args:
            mean: of its input, one number per channel.

        Returns:
            None for a quantizer without such a parameter.
        """
        return None

    def sign_form(self) -> SignForm | str:
        """What this computes in evaluation mode, as a sign; or, as text, why it is not one."""
        return "it computes no sign of its input"

    def level_form(self) -> LevelForm | str:
        """What this computes in evaluation mode, if `planes` is above 1; or, as text, why this is unknown."""
        return "it does not say its levels"

    def is_upper(self, x: Tensor) -> Tensor:
        """Where the quantized `x` has the larger one of its two values: bool, shape of `x`."""
        return self.rule.quantize(x, *self.rule_parameters())[0] > 0

    def forward(self, x: Tensor) -> Tensor:
        """The quantized `x`, of the same shape; a float tensor of two values per scale (2^K of K bits)."""
        return quantize(self.rule, self.prepare(x), *self.rule_parameters())

    def extra_repr(self) -> str:
        """The rule."""
        return repr(self.rule)


class ScheduledSign(Numbers, Quantizer):
    """Forward sign(x), a gradient whose shape follows the progress of training.

    Args:
        rule: forward sign(x); takes the scheduled numbers, in their order.
        **schedules: see `Numbers`.
    """

    def __init__(self, rule: Rule, **schedules: Schedule) -> None:
        super().__init__(**schedules)
        self.rule = rule

    @property
    def needs_negatives(self) -> bool:
        """See `Quantizer`."""
        return True

    def rule_parameters(self) -> tuple[Tensor, ...]:
        """See `Quantizer`."""
        return self.numbers()

    def follow_training(self, progress: float) -> None:
        """See `binarize.layers.set_progress`."""
        self.set(progress)

    def sign_form(self) -> SignForm:
        """See `Quantizer`."""
        return SignForm()

    def extra_repr(self) -> str:
        """The rule."""
        return repr(self.rule)


class SignSTE(Quantizer):
    """Forward sign(x), gradient 1 for abs(x) <= 1 (bnn)."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = SteSign()

    @property
    def needs_negatives(self) -> bool:
        """See `Quantizer`."""
        return True


class StepSTE(Quantizer):
    """Forward 1 where x > 0, else 0, gradient 1 for abs(x) <= 1: for inputs without negative values (bnn).

    Args:
        ranges: channels [start, stop) without negative values, the others getting sign(x); empty for all.
        dim: channel dimension.
    """

    rule: SteStep

    def __init__(self, ranges: tuple[tuple[int, int], ...] = (), *, dim: int = 1) -> None:
        super().__init__()
        self.rule = SteStep(ranges, dim)
        count = sum(stop - start for start, stop in ranges)
        self.values = f"{{0, 1}} on {count} input channels" if ranges else "{0, 1}"

    @property
    def needs_zeros(self) -> bool:
        """See `Quantizer`."""
        return True


class ApproxSignQuantizer(Quantizer):
    """Forward sign(x), gradient max(0, 2 - 2 abs(x)) (Bi-Real Net; BiDense without its DAB)."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = ApproxSign()

    @property
    def needs_negatives(self) -> bool:
        """See `Quantizer`."""
        return True


class ShiftedSignQuantizer(Quantizer):
    """Forward sign(x + beta), gradient max(0, 2 - 2 abs(x + beta)) (ReActNet's RSign).

    Args:
        channels: input channels C.
        name: of the parameter: `beta`, or `move` in linear layers on tokens.
        dim: channel dimension.
        spatial: number of spatial dims.
    """

    beta: nn.Parameter
    move: nn.Parameter

    def __init__(self, channels: int, *, name: str = "beta", dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self.rule = ShiftedSign()
        self._name = name
        self.register_parameter(name, nn.Parameter(torch.zeros(channel_shape(channels, dim, spatial))))

    def rule_parameters(self) -> tuple[Tensor, ...]:
        """See `Quantizer`."""
        return (self.move if self._name == "move" else self.beta,)

    def centring(self, mean: Tensor) -> tuple[nn.Parameter, Tensor]:
        """See `Quantizer`: sign(x + beta)."""
        return self.move if self._name == "move" else self.beta, -mean


class TokenSign(ShiftedSignQuantizer):
    """Forward sign(x + move) on (N, L, C), parameter `move` of shape (C,) (BiDense's linear layers).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, name="move", dim=-1)


class AdaBinSign(Quantizer):
    """Forward alpha_a * (sign((x - beta_a) / alpha_a) + beta_a), two learnable numbers (AdaBin)."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = AdaBinSet()
        self.alpha_a = nn.Parameter(torch.ones(()))
        self.beta_a = nn.Parameter(torch.zeros(()))

    def is_upper(self, x: Tensor) -> Tensor:
        """See `Quantizer`."""
        return super().forward(x) > self.alpha_a * self.beta_a

    def rule_parameters(self) -> tuple[Tensor, ...]:
        """See `Quantizer`."""
        return self.alpha_a, self.beta_a


class Redistribution(Quantizer):
    """Forward sign(k x + b), gradient of tanh(beta (k x + b)) (BiSRNet).

    Args:
        channels: input channels C; k (init 1) and b (init 0) have one value each per channel.
        dim: channel dimension.
        spatial: number of spatial dims.
    """

    def __init__(self, channels: int, *, dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self.rule = RedistributedSign()
        shape = channel_shape(channels, dim, spatial)
        self.k = nn.Parameter(torch.ones(shape))
        self.b = nn.Parameter(torch.zeros(shape))
        self.beta = nn.Parameter(torch.ones(1))

    def rule_parameters(self) -> tuple[Tensor, ...]:
        """See `Quantizer`."""
        return self.k, self.b, self.beta

    def centring(self, mean: Tensor) -> tuple[nn.Parameter, Tensor]:
        """See `Quantizer`: sign(k x + b)."""
        return self.b, -self.k.detach().flatten() * mean


class DAB(Quantizer):
    """The distribution-adaptive binarizer of BiDense; formulas in `binarize.functional.dab`.

    Parameters `a`, `k` and `b`, of which a variant has those that its formula holds: one value per
    channel, or with `granularity="layer"` a single `a`, with `group` one per group. `a` and `k` start from
    N(0, 1e-3), `b` from 0.

    Args:
        channels: input channels C.
        granularity: `channel`: a scale per sample and channel (the authors' code); `layer`: one per
            sample (the paper's text; only then is the convolution one XNOR and popcount); `group`: one per
            sample and group of neighbouring channels (a popcount for each group).
        threshold: see `DabRule`.
        scale: see `DabRule`.
        dim: channel dimension.
        spatial: number of spatial dims.
        groups: with granularity `group`, how many groups there are at most; `group_bounds` says which.
    """

    rule: DabRule
    a: nn.Parameter
    k: nn.Parameter
    b: nn.Parameter

    def __init__(
        self,
        channels: int,
        granularity: Granularity = "channel",
        *,
        threshold: Threshold = "adaptive",
        scale: Scale = "adaptive",
        dim: int = 1,
        spatial: int = 2,
        groups: int = 4,
    ) -> None:
        super().__init__()
        self.rule = DabRule(threshold, scale, granularity, dim, groups)
        shape = channel_shape(channels, dim, spatial)
        scales = {"channel": channels, "layer": 1, "group": len(group_bounds(channels, groups)) - 1}
        scale_shape = channel_shape(scales[granularity], dim, spatial)
        for name in self.rule.names():
            value = torch.zeros(scale_shape if name == "a" else shape)
            if name != "b" and not value.is_meta:  # on meta it takes milliseconds and draws nothing
                value.normal_(0, 1e-3)
            self.register_parameter(name, nn.Parameter(value))

    @property
    def needs_negatives(self) -> bool:
        """See `Quantizer`."""
        return self.rule.threshold == "none"

    def centring(self, mean: Tensor) -> tuple[nn.Parameter, Tensor] | None:
        """See `Quantizer`: sign(x - (k mean(x) + b))."""
        if self.rule.threshold == "adaptive":
            return self.b, mean - self.k.detach().flatten() * mean
        return (self.b, mean) if self.rule.threshold == "b" else None

    def rule_parameters(self) -> tuple[Tensor, ...]:
        """See `Quantizer`."""
        return tuple(getattr(self, name) for name in self.rule.names())

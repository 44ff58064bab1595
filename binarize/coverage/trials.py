"""Trials of a converted model; a trial raises `CheckError` if its result is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binarize.coverage.libraries.network import Given
from binarize.coverage.subjects import Subject, tensors
from binarize.files import load, save
from binarize.layers import BinaryLayer
from binarize.runtime import configure, deploy, report
from binarize.runtime.program.capture import NoProgramError
from binarize.runtime.verify import verify

MOST_BEYOND, MOST_OFF = 0.01, 0.01
"""A packed layer is wrong if more than this share of its values is off by more than rounding, and one value
by more than this, relative to the largest. A few may be off by a whole step: their inputs lie on a threshold.
All may be off by a little: a norm behind a nearly constant map amplifies rounding.
"""


class CheckError(Exception):
    """A step whose outcome is wrong, with the reason."""


class NotFiniteError(CheckError):
    """A step in which numbers overflow."""


def train(model: nn.Module, subject: Subject, images: Tensor) -> list[Tensor]:
    """The floating-point tensors of the output in training mode.

    Raises:
        CheckError: there is none.
        NotFiniteError: it is not finite.
    """
    model.train()
    with statistics_of_one_batch(model):
        found = tensors(call(model, subject.feed(images, True)))
    outputs = [output for output in found if output.is_floating_point()]
    expect_finite(outputs, "the output in training mode")
    return outputs


def backward(model: nn.Module, subject: Subject, outputs: Sequence[Tensor]) -> None:
    """Check that every latent weight has a finite gradient, except those that are known to have none.

    Raises:
        CheckError: the output depends on no parameter.
        NotFiniteError: a latent weight has no gradient, or one that is not finite.
    """
    loss = sum((output * torch.randn_like(output)).mean() for output in outputs if output.requires_grad)
    if not isinstance(loss, Tensor):
        raise CheckError("the output depends on no parameter")
    loss.backward()
    bad = []
    for name, layer in model.named_modules():
        if isinstance(layer, BinaryLayer) and not any(fnmatchcase(name, glob) for glob in subject.idle):
            gradient = layer.weight.grad
            if gradient is None or not bool(torch.isfinite(gradient).all()):
                bad.append(f"{name} ({'none' if gradient is None else 'not finite'})")
    model.zero_grad()
    if bad:
        raise NotFiniteError(f"{len(bad)} latent weights without a finite gradient, first {bad[0]}")


def evaluate(model: nn.Module, subject: Subject, images: Tensor) -> Any:
    """The output in evaluation mode.

    Raises:
        CheckError: it holds no tensor.
        NotFiniteError: it is not finite.
    """
    model.eval()
    with torch.no_grad():
        output = call(model, subject.feed(images, False))
    found = tensors(output)
    if not found:
        raise CheckError("no tensor comes out")
    if not images.is_meta:
        expect_finite(found, "the output in evaluation mode")
    return output


def independence(model: nn.Module, subject: Subject, size: tuple[int, ...]) -> None:
    """Check that an image's output is the same, bit for bit, whatever else is in the batch."""
    image, *others = torch.randn(3, *size)
    # Batches of one size: then each image is computed by the same kernels, and results are comparable bit by
    # bit.
    first, second = (
        subject.of_first(evaluate(model, subject, torch.stack([image, other]))) for other in others
    )
    if not same(first, second):
        raise CheckError("an image's output depends on what else is in the batch")


def file(model: nn.Module, subject: Subject, images: Tensor, folder: str) -> None:
    """Check that a file gives the same tensors and the same output, bit for bit."""
    path = save(model, Path(folder) / "model.safetensors", source=getattr(model, "binarize_spec", None))
    again = load(path, subject.rebuilt())
    before, after = model.state_dict(), again.state_dict()
    if list(before) != list(after):
        raise CheckError("the loaded model has other tensors than the saved one")
    for name, tensor in before.items():
        if tensor.dtype != after[name].dtype or not torch.equal(tensor, after[name]):
            raise CheckError(f"{name} is not what was saved")
    ours, loaded = (tensors(evaluate(net, subject, images)) for net in (model, again))
    if not same(ours, loaded):
        raise CheckError("the loaded model gives another output than the saved one")


def packing(model: nn.Module, subject: Subject, images: Tensor, folder: str) -> dict[str, str]:
    """Check that packed layers give the trained ones' results, and a packed file the same, bit for bit.

    Returns:
        The layers that cannot be packed, and why.
    """
    packed = deploy(model)
    ours = tensors(evaluate(packed, subject, images))  # by the modules, as the loaded one's first call
    given = subject.feed(images, False)
    if _differs(model, packed, given):
        # a norm behind a nearly constant map amplifies the rounding of scales, too. Exact ones agree
        configure(packed, exact_scales=True)
        if found := _differs(model, packed, given):
            raise CheckError(found)
        configure(packed)
    path = save(packed, Path(folder) / "packed.safetensors", packed=True)
    loaded = tensors(evaluate(load(path, subject.rebuilt()), subject, images))
    if not same(ours, loaded):
        raise CheckError("the loaded packed model gives another output than the saved one")
    _program(packed, given)
    return dict(report(packed).refused)


def _differs(model: nn.Module, packed: nn.Module, given: Given) -> str:
    """Which packed layer does not give the trained one's results; empty if all do."""
    for layer in verify(_Fed(model), _Fed(packed), [given]).layers:  # type: ignore[list-item]
        if layer.inputs and layer.beyond > MOST_BEYOND and layer.worst > MOST_OFF:
            name = layer.name.removeprefix("model.")
            return f"packed, {name} differs in {layer.beyond:.1%} of its values, by {layer.worst:.1e} at most"
    return ""


def _program(packed: nn.Module, given: Given) -> None:
    """Check the operators of the program that a packed network runs for an input, if it has one."""
    args, kwargs = ((), given) if isinstance(given, dict) else (given, {})
    try:
        steps = packed.binarize_programs.compared(*args, **kwargs)  # type: ignore[operator, union-attr]
    except NoProgramError:
        return
    for step in steps:
        if step.beyond > MOST_BEYOND and step.worst > MOST_OFF:
            raise CheckError(
                f"the program's {step.operator} of {step.place} differs in {step.beyond:.1%} of its values, "
                f"by {step.worst:.1e} at most"
            )


class _Fed(nn.Module):
    """A network that takes the inputs of a subject; only its layers are compared."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: Given) -> Tensor:
        call(self.model, given)
        return torch.zeros(1)


def call(model: nn.Module, given: Given) -> Any:
    """The output of a model for its inputs."""
    return model(**given) if isinstance(given, dict) else model(*given)


@contextlib.contextmanager
def statistics_of_one_batch(model: nn.Module) -> Iterator[None]:
    """Make BatchNorms replace their statistics by those of the next batch.

    An untrained network has initial statistics: errors of a factor per layer would end in overflow.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 1.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two outputs hold the same numbers."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def expect_finite(outputs: Sequence[Tensor], what: str) -> None:
    """Refuse outputs that hold no tensor (`CheckError`) or are not finite (`NotFiniteError`)."""
    if not outputs:
        raise CheckError(f"{what} holds no tensor")
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise NotFiniteError(f"{what} is not finite")

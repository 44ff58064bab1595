"""Everything that has to hold of one converted model, checked by running it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binarize.coverage.record import Record
from binarize.coverage.spill import saved_in_files
from binarize.coverage.subjects import Subject, count_convolutions, input_sizes, tensors
from binarize.errors import BinarizeError, ConfigError
from binarize.files import load, save
from binarize.graph import LayerPlan, Plan, Policy, execute, plan
from binarize.layers import BinaryLayer

BATCH = 2
_SMALL, _SMALL_BATCH = 96, 16  # images whose last maps have few positions, and how many make up for that
_LARGE = 384  # images of which one has positions enough
_COPIES = 3  # float model and copy; then copy and gradients; then copy, loaded copy and the file's tensors
_OVERHEAD = 2 << 30  # activations, code, allocator


class _CheckError(Exception):
    """A step whose outcome is wrong, with the reason."""


class _NotFiniteError(_CheckError):
    """A step in which numbers overflow."""


def versions() -> dict[str, str]:
    """What a result depends on beside the model and the method."""
    return {name: version(name) for name in ("binarize", "timm", "torch")}


def memory_needed(params: int) -> int:
    """Bytes that the check of a model with so many parameters takes at most, roughly."""
    return _COPIES * 4 * params + _OVERHEAD


def check(
    subject: Subject,
    method: str = "bidense",
    *,
    memory: int | None = None,
    activations: int | None = None,
    folder: str | None = None,
) -> Record:
    """Convert one model and check what comes out; never raises on account of the model.

    Plan, at the model's own image size, and convert. Then, at the smallest image that the float model takes,
    two images per batch (sixteen of up to 96 pixels, or BatchNorm would have no variance; one from 384 on):
    forward and backward in training mode with a finite gradient in every latent weight; in evaluation mode,
    with that batch's statistics in the BatchNorms, each image's output is the same, bit for bit, whatever
    else is in the batch; a file gives the same tensors and the same output, bit for bit; another image size
    where the float model takes one.

    Args:
        subject: the model and its use.
        method: name of the method.
        memory: bytes to use at most; a model that needs more is converted on the meta device, where only
            shapes are computed and only plan, conversion and forward are checked. None for no limit.
        activations: bytes that the backward pass may need in memory; the rest goes to files. None for all.
        folder: where the temporary files go.
    """
    record = Record(name=subject.name, use=subject.use, method=method, versions=versions())
    run = _Check(subject, method, record, activations, folder)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        run.go(memory)
    return run.record


class _Check:
    def __init__(
        self, subject: Subject, method: str, record: Record, activations: int | None, folder: str | None
    ) -> None:
        self.subject = subject
        self.method = method
        self.record = record
        self.activations = activations
        self.folder = folder
        self.step_name = "build"

    def note(self, **fields: Any) -> None:
        self.record = dataclasses.replace(self.record, **fields)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.step_name = name
        start = time.perf_counter()
        yield
        taken = round(time.perf_counter() - start, 3)
        self.note(seconds={**self.record.seconds, name: self.record.seconds.get(name, 0.0) + taken})

    def go(self, memory: int | None) -> None:
        start = time.perf_counter()
        try:
            self.steps(memory)
        except Exception as error:  # the code of a thousand models: every failure is a result
            lines = str(error).strip().splitlines()
            kind = "" if isinstance(error, (BinarizeError, _CheckError)) else f"{type(error).__name__}: "
            reason = f"{kind}{lines[0][:300] if lines else 'no message'}"
            self.note(status="fail", failed=self.step_name, reason=reason)
        self.note(seconds={**self.record.seconds, "total": round(time.perf_counter() - start, 3)})
        gc.collect()

    def steps(self, memory: int | None) -> None:
        with self.step("build"):
            shell = self.subject.shell()
            params = sum(parameter.numel() for parameter in shell.parameters())
            self.note(
                family=self.subject.family,
                params=params,
                convs=count_convolutions(shell),
                linears=sum(isinstance(m, nn.Linear) for m in shell.modules()),
            )
            fits = memory is None or memory_needed(params) <= memory
            model = (self.subject.build() if fits else shell).eval()
            if not fits:
                self.note(device="meta")
            sizes = self._sizes(shell, model)
        with self.step("plan"):
            try:
                made = plan(model, self.method)
            except ConfigError as error:
                if not self._nothing_to_convert(model):
                    raise
                self.note(status="skip", reason=str(error))
                return
            self.note(notes=made.notes, **_tally(made))
        with self.step("convert"):
            self.plan = made
            converted = execute(made, model)
            del model
        self._at_sizes(converted, sizes, real=fits)
        self.note(status="pass")

    def _sizes(self, shell: nn.Module, model: nn.Module) -> tuple[tuple[int, ...], ...]:
        """Found out without arithmetic, but for models that ask tensors for their values."""
        with contextlib.suppress(ConfigError):
            return input_sizes(shell.eval(), BATCH)
        return input_sizes(model, BATCH)

    def _at_sizes(self, model: nn.Module, sizes: Sequence[tuple[int, ...]], *, real: bool) -> None:
        """All checks at the first size and that it runs at the second.

        If numbers overflow at the first, from the second size on: where the last maps are a single pixel,
        most channels have one sign in all images, no variance, and BatchNorm multiplies their gradients by
        hundreds.
        """
        first, *larger = sizes
        self.note(size=first, second_size=larger[0] if larger else None)
        try:
            if real:
                self._train(model, first)
                self._batch(model, first)
                self._file(model, first)
            else:
                with self.step("forward"):
                    self._evaluate(model, torch.empty(BATCH, *first, device="meta"))
            if larger:
                with self.step("resize"):
                    self._resize(model, larger[0], real=real)
        except _NotFiniteError as error:
            if len(larger) < 2:
                raise
            self.note(overflows=f"{'x'.join(map(str, first[1:]))}: {self.step_name}: {error}")
            self._at_sizes(execute(self.plan, self.subject.build()), larger, real=real)

    def _resize(self, model: nn.Module, size: tuple[int, ...], *, real: bool) -> None:
        batch = BATCH if max(size) < _LARGE else 1
        images = torch.randn(batch, *size, device="cpu" if real else "meta")
        if real:  # what is normal at one size is far off at another
            with _statistics_of_one_batch(model.train()), torch.no_grad():
                model(images)
        self._evaluate(model, images)

    def _nothing_to_convert(self, model: nn.Module) -> bool:
        """Whether it is the policy that leaves nothing, and not a layer that the engine cannot convert."""
        with contextlib.suppress(ConfigError):
            bare = plan(model, self.method, policy=Policy(first=0, last=0))
            return all(row.kept_by != "layer" for row in bare.rows)
        return False

    def _train(self, model: nn.Module, size: tuple[int, ...]) -> None:
        model.train()
        batch = _SMALL_BATCH if max(size) <= _SMALL else BATCH if max(size) < _LARGE else 1
        kept = saved_in_files(self.activations, self.folder)
        with self.step("forward"), kept, _statistics_of_one_batch(model):
            outputs = tensors(model(torch.randn(batch, *size)))
            _expect_finite(outputs, "the output in training mode")
        with self.step("backward"):
            loss = sum((output * torch.randn_like(output)).mean() for output in outputs)
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                raise _CheckError("the output depends on no parameter")
            loss.backward()
            bad = []
            for name, layer in model.named_modules():
                if isinstance(layer, BinaryLayer):
                    gradient = layer.weight.grad
                    if gradient is None or not bool(torch.isfinite(gradient).all()):
                        bad.append(f"{name} ({'none' if gradient is None else 'not finite'})")
            if bad:
                raise _NotFiniteError(f"{len(bad)} latent weights without a finite gradient, first {bad[0]}")
        model.zero_grad()

    def _evaluate(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        model.eval()
        with torch.no_grad():
            outputs = tensors(model(images))
        if not outputs:
            raise _CheckError("no tensor comes out")
        if not images.is_meta:
            _expect_finite(outputs, "the output in evaluation mode")
        return outputs

    def _batch(self, model: nn.Module, size: tuple[int, ...]) -> None:
        with self.step("batch"):
            image, *others = torch.randn(3, *size)
            # Batches of one size: then each image meets the same kernels, and equal means equal.
            first, second = (self._evaluate(model, torch.stack([image, other])) for other in others)
            for a, b in zip(first, second, strict=True):
                if not torch.equal(a[:1], b[:1]):
                    raise _CheckError("an image's output depends on what else is in the batch")

    def _file(self, model: nn.Module, size: tuple[int, ...]) -> None:
        with self.step("load"), tempfile.TemporaryDirectory(dir=self.folder) as folder:
            source = getattr(model, "binarize_spec", None)
            path = save(model, Path(folder) / "model.safetensors", source=source)
            again = load(path)
            before, after = model.state_dict(), again.state_dict()
            if list(before) != list(after):
                raise _CheckError("the loaded model has other tensors than the saved one")
            for name, tensor in before.items():
                if tensor.dtype != after[name].dtype or not torch.equal(tensor, after[name]):
                    raise _CheckError(f"{name} is not what was saved")
            images = torch.randn(BATCH, *size)
            pairs = zip(self._evaluate(model, images), self._evaluate(again, images), strict=True)
            if not all(torch.equal(a, b) for a, b in pairs):
                raise _CheckError("the loaded model gives another output than the saved one")


@contextlib.contextmanager
def _statistics_of_one_batch(model: nn.Module) -> Iterator[None]:
    """Let BatchNorms take over the next batch's statistics whole.

    Those of an untrained network are not its own; what is off by a factor per layer ends in overflow.
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


def _tally(made: Plan) -> dict[str, Any]:
    """Layers by what became of them, convolutions and linear layers apart."""

    def kept(rows: list[LayerPlan]) -> dict[str, int]:
        reasons = (row.reason for row in rows if not row.converted and row.kept_by != "layer")
        return dict(Counter(reasons).most_common())

    linears = [row for row in made.rows if row.kind == "linear"]
    convs = [row for row in made.rows if row.kind != "linear"]
    return {
        "convs_converted": sum(row.converted for row in convs),
        "linears_converted": sum(row.converted for row in linears),
        "convs_kept": kept(convs),
        "linears_kept": kept(linears),
        "convs_missed": tuple(f"{row.name}: {row.reason}" for row in convs if row.kept_by == "layer"),
    }


def _expect_finite(outputs: list[Tensor], what: str) -> None:
    if not outputs:
        raise _CheckError(f"{what} holds no tensor")
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise _NotFiniteError(f"{what} is not finite")

"""The checks of one converted model, which is run for them."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from binarize.coverage import trials
from binarize.coverage.outputs import final_layers, outputs_of
from binarize.coverage.record import Record
from binarize.coverage.spill import saved_in_files
from binarize.coverage.subjects import Subject, count_convolutions
from binarize.coverage.trials import CheckError, NotFiniteError
from binarize.errors import BinarizeError, ConfigError
from binarize.graph import LayerPlan, Plan, Policy, execute, plan

BATCH = 2
MOST_PACKED = 40
"""Binary layers of a network that is packed too; packing a longer one takes longer than all other checks."""

_SMALL, _SMALL_BATCH = 96, 16  # images whose last maps have few positions, and the batch that makes up for it
_LARGE = 384  # one image of this size has enough positions
_SMALL_MODEL = 1_000_000  # parameters; to look for what it left takes longer than its check
_COPIES = 3  # float model and copy; then copy and gradients; then copy, loaded copy and the file's tensors
_OVERHEAD = 2 << 30  # activations, code, allocator


def memory_needed(params: int) -> int:
    """Roughly the most bytes that the check of a model with this many parameters takes."""
    return _COPIES * 4 * params + _OVERHEAD


def check(
    subject: Subject,
    method: str = "bidense",
    *,
    memory: int | None = None,
    activations: int | None = None,
    folder: str | None = None,
) -> Record:
    """Convert one model and check the result; never raises because of the model.

    Plan, at the model's own image size, and convert. Then, at the smallest image that the float model takes,
    two images per batch (sixteen if the network sees up to 96 pixels, or BatchNorm would have no variance;
    one from 384 on): forward and backward in training mode with a finite gradient in every latent weight; in
    evaluation mode, with that batch's statistics in the BatchNorms, each image's output is the same, bit for
    bit, in every batch; a file gives the same tensors and the same output, bit for bit; another image size
    where the float model takes one. For a network of a catalogue moreover: the final layers are exactly those
    of its source; the output's structure is that of the float network; if it has up to `MOST_PACKED` binary
    layers, packed layers give the same results as trained ones, and a packed file gives the same output, bit
    for bit.

    Args:
        subject: the model and its use.
        method: name of the method.
        memory: bytes to use at most; a model that needs more is converted on the meta device, where only
            shapes are computed and only plan, conversion and forward are checked. None for no limit.
        activations: bytes that the backward pass may need in memory; the rest goes to files. None for all.
        folder: where the temporary files go.
    """
    record = Record(
        library=subject.library,
        name=subject.name,
        use=subject.use,
        method=method,
        versions=subject.versions(),
    )
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
        except Exception as error:  # code of many models: every failure is a result
            lines = str(error).strip().splitlines()
            kind = "" if isinstance(error, (BinarizeError, CheckError)) else f"{type(error).__name__}: "
            reason = f"{kind}{lines[0][:300] if lines else 'no message'}"
            self.note(status="fail", failed=self.step_name, reason=reason)
        self.note(seconds={**self.record.seconds, "total": round(time.perf_counter() - start, 3)})
        if self.record.params > _SMALL_MODEL:
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
            fits = memory is None or self.subject.catalogued or memory_needed(params) <= memory
            model = (self.subject.build() if fits else shell).eval()
            if not fits:
                self.note(device="meta")
            sizes = self.subject.sizes(shell, model, BATCH)
            expected = self._layout(model, sizes[0])
        with self.step("plan"):
            try:
                made = plan(model, self.method, example_inputs=self.subject.example(sizes[0]))
            except ConfigError as error:
                if not self._nothing_to_convert(model, sizes[0]):
                    raise
                self.note(status="skip", reason=str(error))
                return
            self.note(notes=made.notes, outputs=outputs_of(made), **_tally(made))
        with self.step("convert"):
            self.plan = made
            converted = execute(made, model)
            del model
            got = self._layout(converted, sizes[0])
            if got != expected:
                raise CheckError(f"the float model gives {expected}, the converted one {got}")
        self._at_sizes(converted, sizes, real=fits)
        if self.subject.heads is not None:  # last: no other check depends on it
            with self.step("final"):
                final_layers(made, self.subject.heads, self.subject.beside)
        self.note(status="pass")

    def _layout(self, model: nn.Module, size: tuple[int, ...]) -> str:
        """Output shapes of a model of a catalogue; for a model of timm, those found while trying sizes."""
        if not self.subject.catalogued:
            return ""
        return self.subject.layout(trials.evaluate(model.eval(), self.subject, torch.randn(BATCH, *size)))

    def _at_sizes(self, model: nn.Module, sizes: Sequence[tuple[int, ...]], *, real: bool) -> None:
        """All checks at the first size, and a run at the second.

        If numbers overflow at the first, from the second size on: where the last maps are a single pixel,
        most channels have one sign in all images, no variance, and BatchNorm multiplies their gradients by
        hundreds.
        """
        first, *larger = sizes
        self.note(size=first, second_size=larger[0] if larger else None)
        try:
            if real:
                self._train(model, first)
                with self.step("batch"):
                    trials.independence(model, self.subject, first)
                self._files(model, first)
            else:
                with self.step("forward"):
                    trials.evaluate(model, self.subject, torch.empty(BATCH, *first, device="meta"))
            if larger:
                with self.step("resize"):
                    self._resize(model, larger[0], real=real)
        except NotFiniteError as error:
            if len(larger) < 2:
                raise
            self.note(overflows=f"{'x'.join(map(str, first[1:]))}: {self.step_name}: {error}")
            self._at_sizes(execute(self.plan, self.subject.build()), larger, real=real)

    def _resize(self, model: nn.Module, size: tuple[int, ...], *, real: bool) -> None:
        batch = BATCH if max(size) < _LARGE else 1
        images = torch.randn(batch, *size, device="cpu" if real else "meta")
        if real:  # normal statistics at one size are far off at another
            with trials.statistics_of_one_batch(model.train()), torch.no_grad():
                trials.call(model, self.subject.feed(images, True))
        trials.evaluate(model, self.subject, images)

    def _nothing_to_convert(self, model: nn.Module, size: tuple[int, ...]) -> bool:
        """Whether the policy leaves nothing to convert, without a layer that the engine cannot convert."""
        with contextlib.suppress(ConfigError):
            policy = Policy(first=0, last=0)
            bare = plan(model, self.method, policy=policy, example_inputs=self.subject.example(size))
            return all(row.kept_by != "layer" for row in bare.rows)
        return False

    def _train(self, model: nn.Module, size: tuple[int, ...]) -> None:
        batch = min(_training_batch(model, size), self.subject.most)
        with self.step("forward"), saved_in_files(self.activations, self.folder):
            outputs = trials.train(model, self.subject, torch.randn(batch, *size))
        with self.step("backward"):
            trials.backward(model, self.subject, outputs)

    def _files(self, model: nn.Module, size: tuple[int, ...]) -> None:
        images = torch.randn(BATCH, *size)
        with self.step("load"), tempfile.TemporaryDirectory(dir=self.folder) as folder:
            trials.file(model, self.subject, images, folder)
        if self.subject.catalogued and len(self.plan.converted) <= MOST_PACKED:
            with self.step("pack"), tempfile.TemporaryDirectory(dir=self.folder) as folder:
                refused = trials.packing(model, self.subject, images, folder)
                self.note(not_packed=tuple(f"{name}: {reason}" for name, reason in refused.items()))


def _training_batch(model: nn.Module, size: tuple[int, ...]) -> int:
    """How many images of a size make a batch: many of those whose last maps have few positions."""
    info = getattr(model, "encoder_info", None)  # of UPerNet, which resizes images for some encoders
    edge = max(*size, *((info.fixed_size if info is not None else None) or ()))
    return _SMALL_BATCH if edge <= _SMALL else BATCH if edge < _LARGE else 1


def _tally(made: Plan) -> dict[str, Any]:
    """Counts of layers by the decision on them, separately for convolutions and linear layers."""

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

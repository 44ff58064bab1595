"""The settings of a recipe and their defaults."""

from __future__ import annotations

import typing
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from binarize.recipes.images import (
    Augmentation,
    Count,
    Evaluation,
    Float,
    Int,
    NotNegative,
    Part,
    Positive,
    Share,
    Whole,
)

# YAML reads an unquoted `no` as false.
Precision = Annotated[Literal["no", "bf16"], BeforeValidator(lambda value: "no" if value is False else value)]


class Data(Part):
    """The data set.

    Attributes:
        name: see `binarize data list`.
        root: its folder, relative to this file or else to the current folder; by default it is looked for
            where BINARIZE_DATA points to.
        options: of the data set.
        train: name of the split to train on.
        val: of the one to watch during training; none to watch nothing.
        test: of the one that `binarize evaluate` takes by default.
        workers: processes that load images, per training process; 0 loads them in the training process.
    """

    name: str
    root: str | None = None
    options: dict[str, Any] = Field(default={})
    train: str = "train"
    val: str | None = "val"
    test: str = "test"
    augmentation: Augmentation
    evaluation: Evaluation = Evaluation()
    workers: Whole = 0


class Network(Part):
    """The float network; task, classes and depth range come from the data set (docs/own-network.md).

    Attributes:
        name: one of `binarize.networks.names()`; `upernet:convnext_tiny?width=64`; or a callable of your own,
            `path/to/nets.py:unet` (the path from this file's folder, or the current one) or
            `package.module:Net`; `timm:NAME` for a model of timm.
        encoder: a timm model, for a network that takes one.
        pretrained: start from timm's pretrained weights; of a callable, its argument of that name.
        options: further arguments of the network.
        output: which tensor to take of a network that returns several: index, key or attribute.
    """

    name: str = "upernet"
    encoder: str | None = None
    pretrained: bool = False
    options: dict[str, Any] = Field(default={})
    output: Int | str | None = None

    @property
    def title(self) -> str:
        """What to call it in tables: `upernet on convnext_tiny`, `nets.py:unet`."""
        if self.encoder is not None:
            return f"{self.name} on {self.encoder}"
        path, colon, rest = self.name.rpartition(".py:")
        return f"{PurePath(path).name}{colon}{rest}" if colon else self.name


class MethodSettings(Part):
    """How the network is binarized; see `binarize methods` and `binarize.Policy`.

    Attributes:
        name: of the method.
        options: of the method.
        keep: globs of layers that stay float.
        only: globs of the layers to convert; none for all.
        first: layers to keep at the input.
        last: layers to keep at each output.
        weights: `float` leaves the weights float, so that activations alone are binary.
    """

    name: str
    options: dict[str, Any] = Field(default={})
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    first: Whole = 1
    last: Whole = 1
    weights: Literal["binary", "float"] = "binary"


class Schedule(Part):
    """OneCycle (Smith and Topin, 2019), cosine; or a cosine alone behind a warm-up.

    Attributes:
        name: `cosine` falls along half a cosine from `lr` to 0 behind the warm-up, as torch's
            CosineAnnealingLR.
        per: when the rate changes; the paper's code changes it once per epoch.
        rise: share of the training after which the rate is highest; this and the next two are for `onecycle`.
        start: highest rate / first rate.
        end: first rate / last rate.
        warmup: epochs, at the start, in which the rate also rises in a straight line from step to step,
            whatever the schedule (Goyal et al., arXiv 1706.02677); also parts of one. OneCycle rises anyway.
        warmup_steps: the same in steps.
    """

    name: Literal["onecycle", "cosine", "constant"] = "onecycle"
    per: Literal["epoch", "step"] = "epoch"
    rise: Share = 0.3
    start: Positive = 25.0
    end: Positive = 1e4
    warmup: NotNegative = 0.0
    warmup_steps: Whole = 0

    @model_validator(mode="after")
    def _one_warmup(self) -> Schedule:
        if self.warmup and self.warmup_steps:
            raise ValueError("warmup and warmup_steps are two ways to say one thing: leave one out")
        return self


class Distillation(Part):
    """Learning from a float network too.

    Attributes:
        teacher: a network for the same task: file of a checkpoint, folder of a run, `zoo:NAME`, or, in a
            recipe with stages, `stage:NAME` for an earlier one.
        weight: of its loss: per-pixel KL divergence of the class probabilities, or of depth the mean absolute
            difference of logarithms.
        hard: weight of the loss against the truth. 0 with `temperature` 1 is the distributional loss that
            ReActNet trains with (arXiv 2003.03488, Section 4.3): the teacher's probabilities alone.
        loss: `kl`, or `cross_entropy` between the probabilities of both, which is larger by the teacher's
            entropy and has the same gradient.
        temperature: of the probabilities.
        features: weight of the mean squared difference of the encoder's maps, each divided by its own scale.
    """

    teacher: str
    weight: NotNegative = 1.0
    hard: NotNegative = 1.0
    loss: Literal["kl", "cross_entropy"] = "kl"
    temperature: Positive = 1.0
    features: NotNegative = 0.0


class Training(Part):
    """How it is trained.

    Attributes:
        epochs: passes over all training images. A run with a constant schedule can be extended:
            `--resume --set training.epochs=60`; what follows the progress of training (parameters of some
            methods, `activations_first`) keeps the schedule of the first number, and then its last value.
        batch: images per step, of all processes together.
        accumulate: parts that a step's images are worked through in; BatchNorm and loss are of each part
            alone, and with several processes a part holds other images than with one.
        optimizer: AdamW; Adam, whose weight decay is a part of the gradient; or SGD, whose is too.
        momentum: of SGD.
        nesterov: whether its momentum is Nesterov's.
        lr: highest learning rate.
        weight_decay: of the optimizer.
        quantizer_decay: whether it also applies to the parameters of quantizers (thresholds, scales, shifts).
        schedule: of the learning rate.
        clip: largest norm of the gradient; none for any.
        class_balance: how much the pixels of rare classes count in the loss: share of the class in all pixels
            to the power of minus this number; 0 for all pixels alike, 1 for all classes alike. In
            classification, of images.
        label_smoothing: share of the target that all classes get alike; for classification, as the next two.
        mixup: alpha of mixup (arXiv 1710.09412): a batch is mixed with itself, in shares drawn from
            Beta(alpha, alpha); 0 for none.
        cutmix: alpha of CutMix (arXiv 1905.04899), likewise for rectangles; of both, a batch gets one or the
            other.
        seed: of start values, order and random choices.
        channels_last: keep maps with their channels last in memory, which many CPUs and GPUs convolve faster.
        precision: `no` for float32, bf16 for mixed precision.
        compile: let torch compile forward and backward pass. It takes a minute or two at the start, and makes
            the steps of most binary networks much shorter.
        ema: decay per step of a moving average of the weights, which is evaluated and kept; none for none.
            It reaches back 1 / (1 - ema) steps: 0.999 is for runs of several thousand.
        ema_warmup: let the decay rise from 0 as 1 - (1 + steps)^(-2/3) until it is `ema`.
        activations_first: share of the epochs in which weights stay float and only activations are binary.
        start_from: weights to start from (file, folder of a run, or `zoo:NAME`), of the float network or of
            the same binary one; packed files have none to start from.
        start_fit: what they have to fit: `all` of the network's tensors, `most` (half of them; the others are
            named, and start as without it), or `any`.
        distillation: from a float network.
        calibrate: batches from which the statistics of BatchNorm are measured again at the end, with the
            final weights (Wu and Johnson, arXiv 2105.07576), and in front of each look at `val` whose network
            may be kept (`keep: best` or `both`, `patience`), so that the best epoch is chosen, and kept, with
            such statistics too; 0 leaves the moving averages.
        save_every: epochs from one checkpoint to the next.
        evaluate_every: epochs from one evaluation of `val` to the next; the last epoch is always evaluated.
        keep: networks that stay in the run's folder: that of the `last` epoch or that of the one that was
            `best` on `val` by the main figure (mIoU, AbsRel...), as model.safetensors; or `both`, the second
            as best.safetensors.
        patience: end the run after this many evaluations of `val` in a row without a better main figure;
            none to train all epochs. Schedules of the learning rate and of a method do not reach their end.
        min_delta: how much better than the best one a figure has to be to count for `patience`.
        trackers: what the figures of each epoch are written to: tensorboard, wandb, mlflow...; none for
            tensorboard where it is installed, [] for nothing.
    """

    epochs: Count
    batch: Count
    accumulate: Count = 1
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    lr: Positive
    weight_decay: NotNegative = 0.01
    quantizer_decay: bool = False
    schedule: Schedule = Schedule()
    clip: Positive | None = None
    class_balance: Share = 0.0
    label_smoothing: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    seed: Annotated[Int, Field(ge=0, lt=2**31)] = 0
    channels_last: bool = False
    precision: Precision = "no"
    compile: bool = False
    ema: Annotated[Float, Field(gt=0, lt=1)] | None = None
    ema_warmup: bool = True
    activations_first: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    start_from: str | None = None
    start_fit: Literal["all", "most", "any"] = "most"
    distillation: Distillation | None = None
    calibrate: Whole = 0
    save_every: Count = 1
    evaluate_every: Count = 1
    keep: Literal["last", "best", "both"] = "both"
    patience: Count | None = None
    min_delta: NotNegative = 0.0
    trackers: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Training:
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError("nesterov is for optimizer: sgd with a momentum")
        if self.schedule.name == "cosine" and self.schedule.warmup >= self.epochs:
            raise ValueError(f"schedule.warmup {self.schedule.warmup} leaves nothing of {self.epochs} epochs")
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} is not a multiple of accumulate {self.accumulate}")
        return self


class Stage(Part):
    """One part of a training that goes from float to binary; it starts from the weights of the one before.

    Attributes:
        binary: `none` trains the float network, `activations` one with binary activations and float weights,
            `all` the binary one.
        share: of `training.epochs`, in relation to the other stages' numbers.
        training: settings of `training` that differ in this stage.
    """

    binary: Literal["none", "activations", "all"] = "all"
    share: Positive = 1.0
    training: dict[str, Any] = Field(default={})


class TrainingRecipe(Part):
    """One training.

    Attributes:
        about: one line for lists.
        data: that is trained on.
        network: that is trained.
        method: how it is binarized; none trains the float network.
        training: how it is trained.
        stages: parts of the training by name, in order; none for a training in one go (docs:
            pretrained-to-binary.md).
    """

    about: str = ""
    data: Data
    network: Network
    method: MethodSettings | None = None
    training: Training
    stages: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], Stage] = Field(default={})


def can_be_none(place: tuple[str | int, ...]) -> bool:
    """Whether the setting at a place of a recipe can be null; False for what is not a setting itself."""
    model: Any = TrainingRecipe
    allowed = False
    for part in place:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return False
        kinds = (field.annotation, *typing.get_args(field.annotation))
        allowed = type(None) in kinds
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return allowed


# the earlier names of these classes, which scripts may import and pickles may hold
Recipe = TrainingRecipe
Method = MethodSettings

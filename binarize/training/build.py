"""From a recipe to data, network and optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binarize import data, graph, model_names
from binarize.data.catalog import check_split, info
from binarize.data.dataset import Truth
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError
from binarize.layers import BinaryLayer
from binarize.layers.float_weights import use_float_weights
from binarize.methods import METHODS, create
from binarize.networks.catalog import NETWORKS
from binarize.recipes import TrainingRecipe
from binarize.recipes.schema import MethodSettings, Network, Training
from binarize.training.folder import model_file
from binarize.training.sizes import check_size, check_training
from binarize.training.start_weights import started
from binarize.training.tasks import TASKS, task_of

FROM_PYTHON = "python"
"""What recipes of runs that `binarize.training.fit` made call their data."""


def faults(recipe: TrainingRecipe) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Names in a recipe that are unknown, and options that a method does not have, with their places."""
    chosen = recipe.data
    checks: list[tuple[tuple[str | int, ...], Callable[[], Any]]] = [
        (("network", "name"), lambda: model_names.find(recipe.network.name)),
        (("network",), lambda: _check_encoder(recipe.network)),
    ]
    if chosen.name in data.names():
        parts = {part: getattr(chosen, part) for part in ("train", "val", "test")}
        checks += [
            (("data", part), partial(check_split, chosen.name, split))
            for part, split in parts.items()
            if split
        ]
    else:
        checks.append((("data", "name"), lambda: info(chosen.name)))
    if (method := recipe.method) is not None:
        checks += _method_checks(method)
    for place, check in checks:
        try:
            check()
        except ConfigError as error:
            yield place, str(error)
    task = info(chosen.name).task if chosen.name in data.names() else None
    if task is not None:
        yield from TASKS[task].faults(recipe)


def _check_encoder(chosen: Network) -> None:
    """Refuse a network of the toolkit whose encoder nothing names."""
    function = NETWORKS.get(chosen.name) if chosen.name in NETWORKS else None
    encoder = inspect.signature(function).parameters.get("encoder") if function is not None else None
    known = chosen.encoder is not None or "encoder" in chosen.options
    if encoder is not None and encoder.default is encoder.empty and not known:
        raise ConfigError(f"{chosen.name} needs an encoder, a model of timm: encoder: convnext_tiny.")


def _method_checks(method: MethodSettings) -> Iterator[tuple[tuple[str | int, ...], Callable[[], Any]]]:
    """The method's name, then each option alone, which finds the one at fault; then all options together."""
    if method.name not in METHODS.names():
        yield ("method",), partial(METHODS.get, method.name)
        return
    faulty = []
    for name, value in method.options.items():
        try:
            create(method.name, **{name: value})
        except ConfigError:
            faulty.append(name)
            yield ("method", "options", name), partial(create, method.name, **{name: value})
    if not faulty:
        yield ("method",), partial(create, method.name, **method.options)


def dataset(
    recipe: TrainingRecipe, split: str, *, root: Path | None = None, training: bool = False
) -> SampleDataset:
    """A split of the recipe's data set, through the recipe's transform.

    Args:
        recipe: which.
        split: name of the split.
        root: folder of the data set, in place of the recipe's.
        training: through the augmentation; else as evaluation sees it.

    Raises:
        ConfigError: no such data set, split or option, or settings that its task does not have.
        DataError: files are missing.
    """
    chosen = recipe.data
    if chosen.name == FROM_PYTHON:
        raise ConfigError(
            "the network was trained in Python on data that no recipe names: measure it there, by "
            "binarize.training.evaluate(network, data)."
        )
    folder = root if root is not None else Path(chosen.root) if chosen.root is not None else None
    found = data.create(chosen.name, split, folder, **chosen.options)
    task = task_of(found.truth)
    for place, what in task.faults(recipe):
        raise ConfigError(f"{'.'.join(map(str, place))}: {what}")
    if training:
        transform = task.training_transform(chosen.augmentation)
    else:
        transform = task.evaluation_transform(chosen.evaluation)
    return found.with_transform(transform, recipe.training.seed)


def network(
    recipe: TrainingRecipe,
    truth: Truth,
    *,
    weights: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> nn.Module:
    """The recipe's network, converted if it has a method; start values by its seed.

    Args:
        recipe: which.
        truth: of the data set: how many classes, or how deep.
        weights: load the weights of `start_from` and `pretrained`; not needed where weights are loaded later.
        tell: called with what was loaded.

    Raises:
        ConfigError: no such network, encoder, method or option, or weights that do not fit.
    """
    start = recipe.training.start_from if weights else None
    start = None if start is None else model_file(Path(start))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        net = _float_network(recipe, truth, weights=weights)
        spec = getattr(net, "binarize_spec", None)
        if start is None:
            net = _converted(recipe, net)
        else:
            convert = partial(_converted, recipe) if recipe.method is not None else None
            net = started(net, convert, start, recipe.training.start_fit, tell)
    if spec is not None:
        net.binarize_spec = spec
    return net


def _float_network(recipe: TrainingRecipe, truth: Truth, *, weights: bool) -> nn.Module:
    """The network before its conversion; of the user's own, it is seen to give what the truth needs."""
    chosen = recipe.network
    task = task_of(truth)
    named = model_names.find(chosen.name)
    kwargs = model_names.arguments(
        named,
        chosen.options,
        encoder=chosen.encoder,
        pretrained=chosen.pretrained and weights,
        outputs=task.outputs,
        task=task.arguments(),
    )
    if not weights and "pretrained" in kwargs:  # also where the options say so: a file asks for no download
        kwargs["pretrained"] = False
    net = named.build(**kwargs)
    if named.kind != "network":
        size = recipe.data.augmentation.size
        check_size(net, truth, size, "data.augmentation.size", chosen.output, exact=True)
        check_training(net, size, chosen.output)
    return net


def _converted(recipe: TrainingRecipe, net: nn.Module) -> nn.Module:
    chosen = recipe.method
    if chosen is None:
        return net
    policy = graph.Policy(keep=chosen.keep, only=chosen.only, first=chosen.first, last=chosen.last)
    method = create(chosen.name, **chosen.options)
    inputs = None
    if model_names.is_own(recipe.network.name):  # nothing else says what images it takes
        inputs = torch.randn(1, 3, *recipe.data.augmentation.size, generator=torch.Generator().manual_seed(0))
    seeded = torch.default_generator  # by the recipe
    converted = graph.apply(net, method, policy=policy, example_inputs=inputs, generator=seeded)
    if chosen.weights == "float":
        use_float_weights(converted)
    return converted


def memory_format(settings: Training) -> torch.memory_format:
    """How weights and images lie in memory: channels last, or as they come."""
    return torch.channels_last if settings.channels_last else torch.preserve_format


def optimizer(model: nn.Module, settings: Training, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer. Weights decay; parameters of quantizers only with `training.quantizer_decay`.

    Args:
        model: the network, in the memory format that it is trained in.
        settings: of the recipe.
        device: where it is trained.
    """
    free = set() if settings.quantizer_decay else {id(p) for p in quantizer_parameters(model)}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: dict[Any, dict[str, Any]] = {}
    for parameter in trained:
        decay = 0.0 if id(parameter) in free else settings.weight_decay
        # torch works on lists of parameters of one type: those that are split are another than whole ones
        group = groups.setdefault((decay, type(parameter.data)), {"params": [], "weight_decay": decay})
        group["params"].append(parameter)
    how: Any = {"lr": settings.lr, "fused": can_fuse(trained, device)}
    parts = list(groups.values())
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parts, momentum=settings.momentum, nesterov=settings.nesterov, **how)
    return (torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW)(parts, **how)


def can_fuse(parameters: Sequence[Tensor], device: torch.device) -> bool:
    """Whether torch's fused optimizers can be taken: a single pass, on a CPU a fifth of the usual one's time.

    The CPU's assumes that weights fill their memory; with slices it would change the values in between.
    CUDA's was not tried with channels-last weights.
    """
    if device.type == "cuda":
        return all(p.is_contiguous() for p in parameters)
    last = torch.channels_last
    filled = (p.is_contiguous() or (p.dim() == 4 and p.is_contiguous(memory_format=last)) for p in parameters)
    return device.type == "cpu" and all(filled)


def quantizer_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Thresholds, scales, shifts and angles of all binary layers' activation and weight quantizers."""
    for module in model.modules():
        if isinstance(module, BinaryLayer):
            yield from module.quantizer.parameters()
            if module.weight_state is not None:
                yield from module.weight_state.parameters()

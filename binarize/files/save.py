"""`save`: a model, converted or float, in one file that rebuilds it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from binarize import preprocessing
from binarize.earlier_names import earlier_arguments
from binarize.errors import ConfigError, warn
from binarize.files.container import check_target, read_metadata, write
from binarize.files.find_source import find_source
from binarize.files.header import ENTRY, Header, PackedHeader, loads, versions
from binarize.files.packed import is_deployed, packed_size, save_packed
from binarize.files.state import state_of, strides_of, transient_buffers
from binarize.files.stored_plan import check_converted_once, executed, weights_entry
from binarize.files.zoo import locate
from binarize.model_info import plan_of


@earlier_arguments(leftovers="float_dtype")
def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    source: Mapping[str, Any] | None = None,
    entries: Mapping[str, str] | None = None,
    packed: bool = False,
    float_dtype: str = "float32",
) -> Path:
    """Write `model`, converted or float, to one safetensors file that `load` rebuilds it from.

    With `packed`, the file holds one bit per binary weight and what `deploy` makes of the rest
    (`docs/format.md`): tens of times smaller, for inference only. Otherwise it holds every parameter and
    persistent buffer, bit for bit, and a header entry (`docs/files.md`): how to build the float model, the
    plan that was executed on it, tied parameters, package versions. It is written atomically; an existing
    file is replaced.

    Args:
        model: on any device; left untouched. Of one in a wrapper (torch.compile, DistributedDataParallel,
            DataParallel), the model inside is written.
        path: the file; by convention its name ends in `.safetensors`.
        source: how to rebuild the float model, if the caller knows for sure (the `binarize_spec` of a model
            that it has just built). By default it is found out, which takes building the model once more.
        entries: further texts for the file's header, by name. What images go through (`Preprocessing`) is
            added if it is not among them and `model` says it: by its attribute `binarize_preprocessing`, or
            by timm's configuration. So is what its output means, by its attribute `binarize_truth`.
        packed: write the deployed form of `model`, which may be converted or deployed already.
        float_dtype: of the floats in a packed file: `float32`, `float16` or `bfloat16`; `load` gives float32
            again.

    Returns:
        Where the file is.

    Raises:
        ConfigError: for a path that cannot be written, a full disk, a model whose state is more than dense
            tensors, one that is deployed but not to be packed, or one to be packed without binary layers.
    """
    from binarize.graph.wrappers import unwrapped

    check_target(path)  # before the work
    _warn_of_ending(Path(path))
    model = unwrapped(model)
    entries = {**_known_entries(model), **weights_entry(model), **(entries or {})}
    if packed:
        return save_packed(model, path, source=source, entries=entries, float_dtype=float_dtype)
    _check_latent(model, float_dtype)
    tensors, aliases = state_of(model)
    plan = plan_of(model)
    check_converted_once(model, plan)
    source = source or find_source(model, lambda shell: executed(plan, shell))
    header = Header(
        source=source,
        plan=None if plan is None else plan.as_dict(),
        aliases=aliases,
        transient=_dtypes(transient_buffers(model)),
        versions=versions(),
        strides={name: s for name, s in strides_of(model).items() if name in tensors},
    )
    return write(path, tensors, {**entries, ENTRY: header.dumps(tensors)})


def _warn_of_ending(path: Path) -> None:
    if path.suffix.lower() in (".pth", ".pt", ".ckpt", ".bin", ".onnx"):
        warn(
            f"{str(path)!r} will be a safetensors file, which neither torch.load nor other readers of "
            f"{path.suffix} files read. Name it {path.with_suffix('.safetensors').name!r}."
        )


def _check_latent(model: nn.Module, float_dtype: str) -> None:
    """Refuse what only a packed file can hold."""
    if float_dtype != "float32":
        raise ConfigError(f"save: float_dtype={float_dtype!r} is for packed files; say packed=True too.")
    if is_deployed(model):
        raise ConfigError(
            f"{type(model).__name__} is deployed, its latent weights are gone: save it with packed=True."
        )


def _dtypes(buffers: Iterable[tuple[str, nn.Module, Tensor]]) -> dict[str, str]:
    return {name: str(buffer.dtype).removeprefix("torch.") for name, _, buffer in buffers}


def deployed_size(path: str | os.PathLike[str], model: nn.Module) -> int | None:
    """Bytes of the file that `binarize deploy` writes of a network, to the byte; nothing is written.

    Args:
        path: its file; of a packed one, the size is its own.
        model: the network in it; left untouched.

    Returns:
        None for a float network: there is nothing to pack.
    """
    from binarize.graph.wrappers import unwrapped

    path = locate(path)
    metadata = read_metadata(path)
    header, _ = loads(metadata, repr(str(path)))
    if isinstance(header, PackedHeader):
        return path.stat().st_size
    others = {name: text for name, text in metadata.items() if name != ENTRY}
    return packed_size(unwrapped(model), source=header.source, entries=others)


def _known_entries(model: nn.Module) -> dict[str, str]:
    """What the model itself says of its images and its output."""
    images = preprocessing.preprocessing_of(model)
    entries = {} if images is None else {preprocessing.ENTRY: images.dumps()}
    truth = getattr(model, preprocessing.TRUTH_ATTRIBUTE, None)
    return {**entries, preprocessing.TRUTH_ENTRY: truth} if isinstance(truth, str) else entries

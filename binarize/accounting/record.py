"""The recording of one run of a model: which module did which work, on what shapes.

The run uses a copy of the model whose tensors have shapes and no data: it costs neither memory nor
arithmetic, and the model stays as it was. Where the forward pass depends on the data, a copy with data is
run.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from binarize.accounting.macs import work_of
from binarize.accounting.work import Work
from binarize.errors import ConfigError, TraceError
from binarize.graph.model_copy import copied


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that a module did.

    Attributes:
        path: of the innermost module, "" for the model itself.
        work: what was done; None for the call of a module as a whole.
        inputs: shapes of the module's tensor arguments, for such a call.
        output: shape of what it returned.
    """

    path: str
    work: Work | None = None
    inputs: tuple[tuple[int, ...], ...] = ()
    output: tuple[int, ...] = ()


@dataclass(kw_only=True)
class Recording:
    """One run.

    Attributes:
        events: in order.
        calls: how often each module was called, by path.
        used: names of the parameters that some operation read.
        uncounted: (path, reason) of work that could not be counted, each once.
        input_positions: height times width times images of the first input, 0 if it is not an image.
    """

    events: list[Event] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    used: set[str] = field(default_factory=set)
    uncounted: list[tuple[str, str]] = field(default_factory=list)
    input_positions: int = 0


def record(
    model: nn.Module, inputs: Callable[[], tuple[Any, ...]], whole: tuple[type[nn.Module], ...] = ()
) -> Recording:
    """Run `model` once in eval mode, without gradients, and record what happened.

    Args:
        model: any network; it is not changed. A model that cannot be copied is run itself; its training flags
            and buffers are restored.
        inputs: makes the positional arguments of its forward.
        whole: classes whose calls are events, beside the operations inside.

    Raises:
        TraceError: if the model does not run on the inputs.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            memo = _plain_tensors(model)
        with FakeCopyMode(mode):
            shell = copy.deepcopy(model, memo)
        with mode:
            _leave_meta_device(shell)
            args = tree_map_only(Tensor, lambda t: _faked(mode, t), inputs())
            return _run(shell, args, whole)
    except Exception:  # any error of a model that needs data: run it with data instead
        pass
    try:
        twin = copied(model)
    except ConfigError:  # holds something that cannot be copied
        twin = model
    try:
        with _restored(twin), torch.random.fork_rng(devices=[]):
            return _run(twin, inputs(), whole)
    except Exception as error:
        shapes = [tuple(t.shape) for t in tree_iter(inputs()) if isinstance(t, Tensor)]
        raise TraceError(
            f"{type(model).__name__} does not run on inputs of shape {shapes}: {error}. "
            "Give another input_size (--size on the command line), or a tuple of example tensors."
        ) from error


def _faked(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    return tensor if getattr(tensor, "fake_mode", None) is mode else mode.from_tensor(tensor)


def _plain_tensors(model: nn.Module) -> dict[int, Any]:
    """Tensors without data for those of the model, by their ids, as `copy.deepcopy` looks for them.

    `FakeCopyMode` takes three times as long for each. It is left with views, tensors that share memory, and
    other classes.
    """
    held = (
        tensor
        for module in model.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    )
    found = {
        id(tensor): tensor
        for tensor in held
        if type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    }
    users = Counter(_storage(tensor) for tensor in found.values())
    memo: dict[int, Any] = {}
    for key, tensor in found.items():
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        if whole and users[_storage(tensor)] == 1 and not tensor.is_quantized:
            device = "cpu" if tensor.is_meta else tensor.device  # some operations do not run on meta
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            parameter = type(tensor) is nn.Parameter
            memo[key] = nn.Parameter(empty, tensor.requires_grad) if parameter else empty
    return memo


def _leave_meta_device(shell: nn.Module) -> None:
    """Move tensors from the meta device to the CPU in a fake mode: some operations do not run on meta."""
    moved: dict[int, Tensor] = {}
    for module in shell.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    if id(tensor) not in moved:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                        moved[id(tensor)] = (
                            nn.Parameter(empty, False) if tensors is module._parameters else empty
                        )
                    tensors[name] = moved[id(tensor)]  # type: ignore[assignment]


class _Watch(TorchDispatchMode):
    def __init__(self, recording: Recording, owners: dict[int, list[str]], stack: list[str]) -> None:
        super().__init__()
        self._recording = recording
        self._owners = owners  # names of parameters by the storage that holds them
        self._stack = stack

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        read: set[str] = set()
        for tensor in tree_iter((args, kwargs)):
            if isinstance(tensor, Tensor) and (key := _storage(tensor)) in self._owners:
                read.update(self._owners[key])
        self._recording.used |= read
        work = work_of(func.namespace, func._schema.name.split("::")[1], args, out)
        path = self._stack[-1] if self._stack else ""
        if isinstance(work, Work):
            if work.kind == "matmul" and read:
                work = replace(work, kind="linear")
            self._recording.events.append(Event(path=path, work=work))
        elif work is not None and (path, work) not in self._recording.uncounted:
            self._recording.uncounted.append((path, work))
        return out


def _run(model: nn.Module, args: tuple[Any, ...], whole: tuple[type[nn.Module], ...]) -> Recording:
    recording = Recording()
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters():
        owners.setdefault(_storage(parameter), []).append(name)
    first = next((t for t in args if isinstance(t, Tensor)), None)
    if first is not None and first.dim() == 4:
        recording.input_positions = first.numel() // first.shape[1]
    stack: list[str] = []
    model.eval()
    with (
        _watched_modules(model, recording, stack, whole),
        _no_fast_path(),
        torch.no_grad(),
        _Watch(recording, owners, stack),
    ):
        model(*args)
    return recording


@contextlib.contextmanager
def _watched_modules(
    model: nn.Module, recording: Recording, stack: list[str], whole: tuple[type[nn.Module], ...]
) -> Iterator[None]:
    handles = []
    for path, module in model.named_modules():

        def enter(module: nn.Module, args: Any, path: str = path) -> None:
            stack.append(path)
            recording.calls[path] += 1

        def leave(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
            stack.pop()
            if isinstance(module, whole) and isinstance(output, Tensor):
                shapes = tuple(tuple(t.shape) for t in args if isinstance(t, Tensor))
                recording.events.append(Event(path=path, inputs=shapes, output=tuple(output.shape)))

        if isinstance(module, torch.jit.ScriptModule):
            continue
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _no_fast_path() -> Iterator[None]:
    """Run attention modules as the products that they consist of, not as one fused operation."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restores training flags and buffers."""
    state = [
        (
            m,
            m.training,
            dict(m._buffers),
            {k: b.detach().clone() for k, b in m._buffers.items() if b is not None},
        )
        for m in model.modules()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, training, buffers, values in state:
                module.training = training
                module._buffers.clear()
                module._buffers.update(buffers)
                for name, value in values.items():
                    kept = buffers[name]
                    if kept is not None:
                        kept.copy_(value)


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
        return id(tensor)

"""What a program was made of, and whether it is still that: tensors, modules, attributes and hooks."""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_torch

from binarize.layers import Bypass
from binarize.layers.normed import normed_input
from binarize.runtime.program.reasons import NoProgramError

_version = operator.attrgetter("_version")
_OWN = ("_compiled_call_impl", "binarize_programs")
_CONTAINERS = (list, dict, set)


class State:
    """A network's attributes at one time.

    What is written past torch (`.data`, NumPy), or into an object that an attribute holds, is not seen; what
    is written into lists, dicts and sets is.

    Args:
        model: in evaluation mode.

    Attributes:
        made_in_training: whether a module was in training mode all the same; such a state is of no use.

    Raises:
        NoProgramError: changes of its tensors could not be noticed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)  # it holds this, by its programs
        self._parts = [module for module in model.modules() if module is not model]
        modules = [model, *self._parts]
        tables = [t for m in modules for t in (m._forward_hooks, m._forward_pre_hooks)]
        # a norm in front of a layer is a hook of our own, which is recorded with the layer
        self._norms = [t for t in tables if t and set(t.values()) == {normed_input}]
        self._norms_before = [dict(t) for t in self._norms]
        self._hooks = [t for t in tables if not any(t is own for own in self._norms)]
        self._tensors = [
            held
            for module in modules
            for table in (module._parameters, module._buffers, module.__dict__)
            for held in table.values()
            if isinstance(held, Tensor)
        ]
        if any(t.is_inference() for t in self._tensors):
            raise NoProgramError("its tensors were made in inference mode: torch does not count changes")
        try:
            # held, so that no other memory can get their addresses
            self._memory = [t.untyped_storage() for t in self._tensors]
            self._places = self._now()
        except (RuntimeError, NotImplementedError) as error:
            raise NoProgramError(f"a tensor of it has no memory: {error}") from error
        self._dicts = [held for module in self._parts for held in _dicts(module)]
        self._dicts += _dicts(model)[1:]
        self._before = [dict(held) for held in self._dicts]
        self._attributes = _attributes(model)
        modes = [held.get("training") for held in (self._attributes, *self._before)]
        self.made_in_training = True in modes
        self._contents = [held for m in modules for held in _containers(m)]
        self._contents_before = [held.copy() for held in self._contents]
        self._classes = [(cls, cls.forward) for cls in {type(m) for m in modules}]

    @property
    def _root(self) -> nn.Module:
        model = self._model()
        if model is None:
            raise RuntimeError("the network is gone")
        return model

    def hooked(self) -> bool:
        """Whether the modules have to run for now, because some of them have hooks."""
        hooked = any(self._hooks) or self._norms != self._norms_before
        return bool(hooked or of_torch._global_forward_hooks or of_torch._global_forward_pre_hooks)

    def trains(self) -> bool:
        """Whether the modules have to run for now, because some of them are in training mode.

        Needs asking only if `same()` is false: a module's mode is one of the attributes that it compares.
        """
        return any(module.training for module in (self._root, *self._parts))

    def same(self) -> bool:
        """Whether the network is what it was."""
        try:  # equal objects are found equal by identity; arrays that are not the same have no truth value
            return (
                self._dicts == self._before
                and _attributes(self._root) == self._attributes
                and self._now() == self._places
                and self._contents == self._contents_before
                and all([cls.forward is forward for cls, forward in self._classes])  # noqa: C419 - each call
            )
        except Exception:  # whatever the attributes of a network make of ==
            return False

    def replaced_forward(self) -> str:
        """The class of a module whose forward was replaced on the instance; nothing if there is none."""
        modules = (self._root, *self._parts)
        return next((type(m).__name__ for m in modules if "forward" in m.__dict__), "")

    def learns(self) -> bool:
        """Whether a call would be recorded for gradients of the network's own tensors."""
        return torch.is_grad_enabled() and True in [t.requires_grad for t in self._tensors]

    def strangers(self, called: Iterable[nn.Module]) -> str:
        """The class of a module that was called and is not in the network; nothing if there is none."""
        own = {id(module) for module in (self._root, *self._parts)}
        # layers of one geometry share their bypass, which has no state
        return next((type(m).__name__ for m in called if id(m) not in own and type(m) is not Bypass), "")

    def _now(self) -> list[tuple[int, int]]:
        # maps are faster than a loop, and this runs at each call
        return list(zip(map(Tensor.data_ptr, self._tensors), map(_version, self._tensors), strict=True))


@contextmanager
def calls_noted(thread: int) -> Iterator[list[nn.Module]]:
    """The modules that a thread calls meanwhile."""
    found: list[nn.Module] = []

    def note(module: nn.Module, args: Any) -> None:
        if threading.get_ident() == thread:
            found.append(module)

    handle = of_torch.register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Those of a deployed network itself, but for its programs."""
    return {name: held for name, held in vars(model).items() if name not in _OWN}


def _dicts(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module.__dict__, module._parameters, module._buffers, module._modules


def _containers(module: nn.Module) -> list[Any]:
    """Lists, dicts and sets that attributes hold; torch's own tables are not among them."""
    own = nn.Module.__dict__.keys() | _OF_TORCH
    return [held for name, held in vars(module).items() if type(held) in _CONTAINERS and name not in own]


_OF_TORCH = vars(nn.Module()).keys()

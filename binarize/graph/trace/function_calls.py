"""Functions during a recorded run: each call that computes tensors from tensors is a step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from binarize.graph.trace.call_signature import tensors
from binarize.graph.trace.flat_graph import FlatGraph
from binarize.graph.trace.layer_step import LayerStep
from binarize.graph.trace.roles import function_role, module_role
from binarize.graph.trace.writes import setter
from binarize.layers.stand_ins import QUESTIONS

# Functions that return a property instead of a tensor, or change nothing.
_SILENT = {
    "size",
    "dim",
    "numel",
    "stride",
    "is_contiguous",
    "__len__",
    "requires_grad_",
    "get_device",
    # of these a tensor is asked for its shape, device and dtype only
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "new_tensor"),
}
# Functions that give a value the shape, device or dtype of another tensor.
_LIKE_ANOTHER = {"type_as", "view_as", "reshape_as", "expand_as"}


class NeedsMemoryError(Exception):
    """A forward that gives a tensor of the model other memory, which fake tensors do not have."""


class FunctionCalls(TorchFunctionMode):
    """Records the calls of functions while it is active.

    Attributes:
        needs_memory: raised by a forward that gives a tensor of the model other memory.
    """

    def __init__(self, model: nn.Module, run: FlatGraph) -> None:
        super().__init__()
        self._model = model
        self._run = run
        self.needs_memory: NeedsMemoryError | None = None
        self._detached: list[Tensor] = []  # kept alive so that their ids are not reused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.called(func, func, args, kwargs or {})

    def called(self, func: Any, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of `call(*args, **kwargs)`, a call of `func`, written down if it is a step."""
        if setter(func) == "data":
            self._set_data(*args)
        result = call(*args, **kwargs)
        if self._run.paused or self._run.leaf_depth:
            return result
        self._note_read(args)
        if getattr(func, "__name__", "") in _SILENT:
            self._note_made(func, args, kwargs, result)
            return result
        if self._is_layer_step():
            self._record_layer(result, args, kwargs)
            return result
        self._note_computed(func, args, kwargs, result)
        if getattr(func, "__name__", "") == "__setitem__":
            self._record_setitem(func, *args)
            self._note_part_set(args[0])
            return result
        outputs = tensors(result)
        inputs = tensors((args, kwargs))
        if len(outputs) == 1 and not inputs:
            self._note_made(func, args, kwargs, outputs[0])
        if not outputs or not inputs:
            return result
        if (
            len(outputs) == 1
            and any(outputs[0] is t for t in inputs)
            and function_role(func) in ("layout", "drop")
        ):
            return result  # contiguous(), to() and dropout that changed nothing
        if getattr(func, "__name__", "") in _LIKE_ANOTHER:
            args, kwargs = args[:1], {}
        node = self._run.graph.create_node(
            "call_function", func, self._run.node_args(args), self._run.node_args(kwargs)
        )
        node.meta["input_shape"] = tuple(inputs[0].shape)
        self._run.add_result(result, node, "layout" if _is_neutral(func, args) else function_role(func))
        if _works_in_place(func):
            self._note_part_set(args[0])
        return result

    def _set_data(self, tensor: Tensor, data: Tensor) -> None:
        """Note that a tensor is given other memory; refuse to give one of the model fake memory."""
        self._run.note_written([tensor])
        if isinstance(data, FakeTensor) and not isinstance(tensor, FakeTensor) and not tensor.is_meta:
            name = self._run.tensor_names.get(id(tensor), "a tensor")
            self.needs_memory = NeedsMemoryError(f"its forward sets the .data of {name}")
            raise self.needs_memory

    def _note_read(self, args: Any) -> None:
        """Note that a parameter is asked for its dtype, shape...: its replacement may lack them."""
        name = self._run.tensor_names.get(id(args[0])) if args and isinstance(args[0], nn.Parameter) else None
        if name is not None:
            self._run.recording.read.add(name)

    def _note_computed(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Note parameters whose values a function wants; a detached parameter counts as the parameter."""
        name = getattr(func, "__name__", "")
        if name in QUESTIONS or (name == "__get__" and not isinstance(result, Tensor)):
            return
        looked_at = name in _LIKE_ANOTHER or name == "to"
        for tensor in tensors((args[:1], {}) if looked_at else (args, kwargs)):
            known = self._run.tensor_names.get(id(tensor))
            if known is None:
                continue
            if name == "detach" or getattr(func, "__self__", None) is Tensor.data:
                self._run.tensor_names[id(result)] = known
                self._detached.append(result)
            else:
                self._run.recording.computed.add(known)

    def _is_layer_step(self) -> bool:
        """Whether the current step applies the weight of the layer whose own forward runs.

        A function of its own: see `proxies`, which take a caller that says isinstance for a user's.
        """
        found, step = self._run.recording.layer_steps.get(self._run.owners[-1]), self._run.module_steps[-1]
        return isinstance(found, LayerStep) and step is not None and step.name == found.step

    def _record_layer(self, result: Tensor, args: Any, kwargs: Any) -> None:
        """A function with the weight of the layer whose forward runs: it is the call of that layer."""
        path = self._run.owners[-1]
        given = args[0] if args else kwargs["input"]
        node = self._run.graph.create_node("call_module", path, (self._run.node_args(given),), {})
        node.meta["input_shape"] = tuple(given.shape)
        role = module_role(self._model.get_submodule(path))
        step = self._run.module_steps[-1]
        self._run.add_result(result, node, role or "other", None if step is None else step.name)

    def _note_made(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        """Tensors made from numbers are constants; record the value where it is known."""
        name = getattr(func, "__name__", "")
        value = {"tensor": next(iter(args), None)}.get(name)
        if name in ("zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones"):
            value = float("ones" in name)
        elif name in ("full", "full_like", "new_full"):
            index = 2 if name == "new_full" else 1
            value = args[index] if len(args) > index else kwargs.get("fill_value")
        if isinstance(value, (int, float)):
            self._run.node_of(result).meta["bounds"] = (float(value), float(value))

    def _record_setitem(self, func: Any, tensor: Tensor, index: Any, value: Any) -> None:
        """A tensor whose part was set is another value from then on: what it was, and what was put in."""
        node = self._run.graph.create_node(
            "call_function", func, (self._run.node_args(tensor), self._run.node_args(value)), {}
        )
        node.meta["input_shape"] = tuple(tensor.shape)
        self._run.add_result(tensor, node, "cat")

    def _note_part_set(self, part: Tensor) -> None:
        """If a view is written in place, its base changes too."""
        whole = getattr(part, "_base", None)
        if whole is None:
            return
        given = (self._run.node_of(whole), self._run.node_of(part))
        node = self._run.graph.create_node("call_function", _part_set, given, {})
        node.meta.update(
            role="cat",
            owner=self._run.owners[-1],
            step=None,
            constant=all(n.meta["constant"] for n in given),
            input_shape=tuple(whole.shape),
            shape=tuple(whole.shape),
        )
        self._run.nodes[whole] = node


def _works_in_place(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name in ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__iand__", "__ior__")
    return name.endswith("_")


def _is_neutral(func: Any, args: tuple[Any, ...]) -> bool:
    """A sum with the number 0 or a product with 1: loops over branches start from them."""
    neutral = {"add": 0, "mul": 1}.get(function_role(func))
    return (
        len(args) == 2 and neutral is not None and any(type(a) in (int, float) and a == neutral for a in args)
    )


def _part_set(values: Any, part: Any) -> Any:
    """Stands for a tensor a part of which was written to."""
    return values

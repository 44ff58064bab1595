"""Names of earlier versions: of arguments and fields, in calls and in pickled objects."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from binarize.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
Class = TypeVar("Class", bound=type)


def earlier_arguments(**now: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function whose keyword arguments had other names.

    Args:
        now: today's name of each, by the earlier one.

    Raises:
        ConfigError: in a call, an argument that is given under both names.
    """

    def change(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for earlier in now.keys() & kwargs.keys():
                if now[earlier] in kwargs:
                    name = function.__qualname__.removesuffix(".__init__")
                    raise ConfigError(
                        f"{name}: {earlier}= is the earlier name of {now[earlier]}=, and both are given: "
                        f"give {now[earlier]}= alone."
                    )
                kwargs[now[earlier]] = kwargs.pop(earlier)
            return function(*args, **kwargs)

        return call

    return change


def earlier_fields(**now: str) -> Callable[[Class], Class]:
    """Decorator of a dataclass whose fields had other names: they can be given and read, also from pickles.

    Args:
        now: today's name of each, by the earlier one.
    """

    def change(cls: Class) -> Class:
        def set_state(self: Any, state: dict[str, Any]) -> None:
            vars(self).update({now.get(name, name): value for name, value in state.items()})

        known: Any = cls
        known.__init__ = earlier_arguments(**now)(known.__init__)
        known.__setstate__ = set_state
        for earlier, name in now.items():
            setattr(cls, earlier, property(operator.attrgetter(name), doc=f"Earlier name of `{name}`."))
        return cls

    return change

"""Options as texts: one reader for methods, for arguments of models, and for settings of recipes."""

from __future__ import annotations

from typing import Any

import pytest

from binarize import methods
from binarize.errors import ConfigError
from binarize.files import parse_kwargs
from binarize.option_texts import pairs, value_of
from binarize.recipes import load, names


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1e1", -10.0),
        ("0.5", 0.5),
        ("True", True),
        ("none", None),
        ("inf", "inf"),
        ("0,1,2", [0, 1, 2]),
        ("0,", [0]),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


def test_pairs() -> None:
    assert pairs(["a=1", " b = x=y "], "--set", "a=1") == {"a": "1", "b": "x=y"}
    assert parse_kwargs("a=1&b=0,1") == {"a": 1, "b": [0, 1]}
    assert parse_kwargs("") == {}


def test_faults_are_told_alike() -> None:
    recipe = names()[0]
    for read in (
        lambda text: pairs([text], "--set", "lr=1"),
        lambda text: load(recipe, [text]),
        parse_kwargs,
    ):
        for text in ("lr", "=1", ""):
            if not text and read is parse_kwargs:
                continue
            with pytest.raises(ConfigError, match=r"expected NAME=VALUE, for instance \S+=\S+\.$"):
                read(text)
    with pytest.raises(ConfigError, match="'lr' is given twice"):
        parse_kwargs("lr=1&lr=2")


def test_a_method_knows_the_types_of_its_options() -> None:
    method = methods.get("bidense")
    assert method.parse("granularity", "layer") == "layer"
    with pytest.raises(ConfigError, match="expected one of"):
        method.parse("granularity", "3")

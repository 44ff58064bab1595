"""What a trained file says beside the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_net

from binarize import recipes
from binarize.data.dataset import Depth
from binarize.errors import ConfigError, FormatError
from binarize.training.metadata import file_metadata, has_recipe, read_recipe, read_truth, trained_size

FILE = Path("m.safetensors")


def test_there_and_back() -> None:
    recipe, truth = recipes.validate(small_net.values(), "a test"), Depth(scale=1000.0, least=0.5, most=10.0)
    metadata = file_metadata(recipe, truth)
    assert has_recipe(metadata)
    assert read_recipe(metadata, FILE) == recipe
    assert read_truth(metadata, FILE) == truth
    assert trained_size(metadata) == recipe.data.augmentation.size == (32, 32)


def test_the_size_is_there_where_the_recipe_is_of_another_version() -> None:
    plain = {**recipes.validate(small_net.values(), "a test").model_dump(mode="json"), "newer": 1}
    metadata = {"binarize.recipe": json.dumps(plain)}
    with pytest.raises(ConfigError, match="newer"):
        read_recipe(metadata, FILE)
    assert trained_size(metadata) == (32, 32)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data": 3}', "null"])
def test_what_is_no_recipe(text: str) -> None:
    assert trained_size({"binarize.recipe": text}) is None
    with pytest.raises((ConfigError, FormatError), match=r"m\.safetensors"):
        read_recipe({"binarize.recipe": text}, FILE)


@pytest.mark.parametrize("size", [[32], [32, 0], [32, True], [32.5, 32], "ab", ["3", "2"], None])
def test_what_is_no_size(size: object) -> None:
    plain = {"data": {"augmentation": {"size": size}}}
    assert trained_size({"binarize.recipe": json.dumps(plain)}) is None


def test_a_file_of_no_training() -> None:
    assert not has_recipe({})
    assert trained_size({}) is None
    with pytest.raises(FormatError, match="not written by `binarize train`"):
        read_recipe({}, FILE)
    with pytest.raises(FormatError, match="does not describe a truth"):
        read_truth({}, FILE)

"""What plans say: sentences in files, codes in memory."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from engine_nets import ResNetLike

import binarize
from binarize.graph.plan_sentences import EARLIER, Code, Statement


@pytest.mark.parametrize("code", list(Code))
def test_a_sentence_is_read_as_what_it_was(code: Code) -> None:
    values = ("conv1", "norm2", "a reason")[: code.value.count("{}")]
    said = Statement(code, *values)
    read = Statement.read(str(said))
    assert (read.code, read.values, read) == (code, values, said)
    for other in (pickle.loads(pickle.dumps(said)), copy.deepcopy(said)):
        assert (other.code, other.values, other) == (code, values, said)
    assert said.is_warning == str(said).startswith("warning: ")


@pytest.mark.parametrize("sentence", list(EARLIER))
def test_a_sentence_of_an_earlier_version_is_read_as_its_code(sentence: str) -> None:
    values = ("conv1", "norm2")[: sentence.count("{}")]
    read = Statement.read(sentence.format(*values))
    assert read == Statement(EARLIER[sentence], *values)
    assert (read.code, read.values) == (EARLIER[sentence], values)


def test_what_no_code_says_is_read_as_it_is() -> None:
    said = Statement.read("its weight is torch.int8, not float")
    assert (said.code, said.values) == (Code.OTHER, ("its weight is torch.int8, not float",))


def test_a_plan_from_json_knows_its_codes() -> None:
    made = binarize.plan(ResNetLike(), example_inputs=torch.zeros(1, 3, 32, 32))
    read = type(made).from_dict(json.loads(json.dumps(made.as_dict(short=True))))
    assert read == made
    codes = [row.code for row in made.rows]
    assert codes == [row.code for row in read.rows]
    assert {Code.STEM, Code.FINAL} <= set(codes)
    assert [note.code for note in read.notes] == [note.code for note in made.notes]
    assert str(read) == str(made)

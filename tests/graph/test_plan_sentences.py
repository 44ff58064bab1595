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

SENTENCES = {
    "not named by only": (Code.NOT_NAMED, ()),
    "kept by name": (Code.KEPT_BY_NAME, ()),
    "sees parameters only": (Code.SEES_PARAMETERS, ()),
    "stem: sees the input": (Code.STEM, ()),
    "among the first 2 layers": (Code.FIRST_LAYERS, ("2",)),
    "final classifier or regressor": (Code.FINAL, ()),
    "among the last 3 layers": (Code.LAST_LAYERS, ("3",)),
    "squeeze-excite gate": (Code.GATE, ()),
    "on a pooled vector": (Code.POOLED, ()),
    "on a vector without a batch": (Code.NO_BATCH, ()),
    "is binary already": (Code.BINARY_ALREADY, ()),
    "frozen: its weight is a constant": (Code.CONSTANT_WEIGHT, ()),
    "not called on the example input": (Code.NOT_CALLED, ()),
    "its weight is used by a function, the layer is not called": (Code.WEIGHT_USED, ()),
    "its bias is written by the forward of block": (Code.WEIGHT_WRITTEN, ("bias", "block")),
    "its weight is read in a forward that writes parameters": (Code.WEIGHT_READ, ("weight",)),
    "a forward computes with its weight, which a binary layer keeps as bits or not at all": (
        Code.COMPUTED_WITH,
        ("weight",),
    ),
    "is called with more than a tensor": (Code.MORE_ARGUMENTS, ("a tensor",)),
    "Padded has a forward of its own that cannot be taken apart: pads by the size of its input": (
        Code.OWN_FORWARD,
        ("Padded", "pads by the size of its input"),
    ),
    "the forward of Conv2d was replaced on the instance: undo that first": (Code.PATCHED, ("Conv2d",)),
    "shared: one layer, called several times": (Code.SHARED, ()),
    "the sum that stays is its bypass": (Code.SUM_IS_BYPASS, ()),
    "is added to a value that carries a signal already": (Code.ADDED_TO_SIGNAL, ()),
    "runs beside a branch that has one": (Code.BESIDE_BYPASS, ()),
    "by what the layers cost, the cheaper form of mbunet in layers conv1, conv2": (
        Code.REDUCED,
        ("mbunet", "layers conv1, conv2"),
    ),
    "none": (Code.NONE, ()),
    "fresh LayerNorm": (Code.NEW_NORM, ("LayerNorm",)),
    "takes over norm1": (Code.TAKES_NORM, ("norm1",)),
    "removes norm1": (Code.NORM_REMOVED, ("norm1",)),
    "replaces norm1": (Code.NORM_REPLACED, ("norm1",)),
    "removes norm1 in front": (Code.NORM_IN_FRONT_REMOVED, ("norm1",)),
    "layer scale removed": (Code.SCALE_REMOVED, ()),
    "the norms behind its calls stay": (Code.NORMS_STAY, ()),
    "norm1 behind stays": (Code.NORM_STAYS, ("norm1",)),
    "norm1 behind stays (parametrized, or with state dict hooks)": (Code.NORM_STAYS_HELD, ("norm1",)),
    "norm1 behind stays (its tensors are read elsewhere)": (Code.NORM_STAYS_READ, ("norm1",)),
    "norm1 behind becomes BatchNorm": (Code.NORM_BECOMES_BATCH, ("norm1",)),
    "BatchNorm in front: without it, the deviation of the input is 3.7": (Code.NORM_ADDED, ("3.7",)),
    "keeps relu": (Code.KEEPS, ("relu",)),
    "keeps relu (at an output)": (Code.KEEPS_AT_OUTPUT, ("relu",)),
    "keeps relu (a factor)": (Code.KEEPS_FACTOR, ("relu",)),
    "keeps relu (its channels are not known)": (Code.KEEPS_UNKNOWN_CHANNELS, ("relu",)),
    "keeps relu (block cannot be rewritten: is called several times)": (
        Code.KEEPS_IN_FORWARD,
        ("relu", "block cannot be rewritten: is called several times"),
    ),
    "relu inside the unit": (Code.INSIDE_UNIT, ("relu",)),
    "relu -> RPReLU": (Code.BECOMES, ("relu", "RPReLU")),
    "outer sum dropped": (Code.SUM_DROPPED, ()),
    "sum stays: block cannot be rewritten: is called several times": (
        Code.SUM_STAYS,
        ("block cannot be rewritten: is called several times",),
    ),
    "sum stays: the branch does not carry its input to the end": (Code.SUM_STAYS_PARTIAL, ()),
    "block cannot be rewritten: its forward draws random numbers": (
        Code.CANNOT_REWRITE,
        ("block", "its forward draws random numbers"),
    ),
    "is called several times": (Code.CALLED_AGAIN, ()),
    "is computed inside MultiheadAttention, which is not taken apart": (
        Code.ATTENTION_INSIDE,
        ("MultiheadAttention",),
    ),
    "its products are in the forwards of two modules, attn and block": (
        Code.ATTENTION_SPREAD,
        ("attn", "block"),
    ),
    "its softmax rows are multiplied 2 times": (Code.ATTENTION_ROWS_READ, ("2",)),
    "what its softmax sees is not a product of queries and keys": (Code.ATTENTION_NO_SCORES, ()),
    "its products are not plain matrix products (@, matmul or bmm)": (Code.ATTENTION_PRODUCTS, ()),
    "a product of two activations without a softmax between two products": (Code.NO_ATTENTION, ()),
    "the model is compiled: its binary copy has to be compiled anew": (Code.COMPILED, ()),
    "the forward of block writes to weight, which stays as it is": (Code.WRITES, ("block", "weight")),
    "control flow depends on data: the plan holds for the branches that the example input took": (
        Code.DATA_DEPENDENT,
        (),
    ),
    "block: converted part by part (control flow depends on data)": (
        Code.PART_BY_PART,
        ("block", "control flow depends on data"),
    ),
    "1 convolution or linear map is called as a function and stays float": (Code.FUNCTION_STAYS, ()),
    "2 convolutions or linear maps are called as functions and stay float": (Code.FUNCTIONS_STAY, ("2",)),
    "hooks of conv1: now run on the replacement, a binary layer with norm and bypass": (
        Code.HOOKS_MOVED,
        ("conv1",),
    ),
    "state dict hooks of conv1: are removed together with the module": (Code.STATE_HOOKS_LOST, ("conv1",)),
    "hooks of conv1: do not run where its calls moved into a unit": (Code.HOOKS_SILENT, ("conv1",)),
    "conv1: shared one weight; now each has its own pieces": (Code.TIE_CUT, ("conv1",)),
    "decoder, head: BatchNorm behind a sum of more than 2 bypassed signals": (
        Code.SUM_NORMED,
        ("decoder, head", "2"),
    ),
    "decoder: BatchNorm behind 5 sums of more than 2 bypassed signals": (
        Code.SUMS_NORMED,
        ("decoder", "5", "2"),
    ),
    "decoder: sums of more than 2 bypassed signals have no norm behind, because their forward "
    "cannot be rewritten; signals grow there": (
        Code.SUMS_GROW,
        ("decoder", "2"),
    ),
    "warning: net.call: holds modules of the given model, and functions are not copied: what it "
    "calls there stays float and trains the given model. Make it a method of its module, or let "
    "it find the modules when it is called": (
        Code.HOLDS_MODULES,
        ("net.call",),
    ),
    "warning: conv1 and 3 more: see no negative value, behind relu, so that the sign is +1 there "
    "whatever the image, and nothing is learnt from it. What helps: keep=": (
        Code.ALWAYS_POSITIVE_SIGN,
        ("conv1 and 3 more", ", behind relu", "keep="),
    ),
    "warning: conv1: see positive values only, behind sigmoid, so that the bit is 1 there "
    "whatever the image, and nothing is learnt from it. What helps: keep=": (
        Code.ALWAYS_ONE,
        ("conv1", ", behind sigmoid", "keep="),
    ),
    "warning: head becomes binary, although logits is its result: its values and their range "
    "change; Policy(last=1) or keep= leaves it float": (
        Code.FINAL_BINARY,
        ("head", "logits"),
    ),
    "warning: attention='binary' changes nothing: of 2 attention steps of the network none can be binary "
    "(kept by name)": (
        Code.NO_BINARY_ATTENTION,
        ("2", " (kept by name)"),
    ),
    "warning: relu in front of features.0 is replaced by the method's activation: the range of "
    "these features changes": (
        Code.OUTPUT_CHANGED,
        ("relu", "features.0"),
    ),
}
"""As plans say them, with the code and values of each."""

EARLIER_SENTENCES = {
    "what its softmax sees is no product of queries and keys": (Code.ATTENTION_NO_SCORES, ()),
    "1 convolutions or linear maps are called as functions and stay float": (Code.FUNCTION_STAYS, ()),
    "what it is added to carries a signal already": (Code.ADDED_TO_SIGNAL, ()),
    "sum stays: the branch does not carry its input all the way": (Code.SUM_STAYS_PARTIAL, ()),
    "a forward computes with its weight, of which bits or nothing would be left": (
        Code.COMPUTED_WITH,
        ("weight",),
    ),
    "BatchNorm in front: 3.1 is its input's deviation without": (Code.NORM_ADDED, ("3.1",)),
    "keeps relu (its channels cannot be told)": (Code.KEEPS_UNKNOWN_CHANNELS, ("relu",)),
    "the forward of block writes to mask, seen: what it writes to stays as it is": (
        Code.WRITES,
        ("block", "mask, seen"),
    ),
    "control flow depends on data: the plan holds for the way that the example input took": (
        Code.DATA_DEPENDENT,
        (),
    ),
    "hooks of conv1, conv2: see what stands there now, a binary layer with norm and bypass": (
        Code.HOOKS_MOVED,
        ("conv1, conv2",),
    ),
    "state dict hooks of conv1: go with the module that they know": (Code.STATE_HOOKS_LOST, ("conv1",)),
    "conv1, conv2: shared one weight, now in pieces that are each one's own": (
        Code.TIE_CUT,
        ("conv1, conv2",),
    ),
    "neck: sums of more than 2 bypassed signals have no norm behind, for their forward cannot be "
    "rewritten; signals grow there": (
        Code.SUMS_GROW,
        ("neck", "2"),
    ),
    "warning: conv1, conv2 and 3 more: see no negative value on some of their channels, so that "
    "the sign is +1 there whatever the image, and nothing is learnt from it. What helps: keep=": (
        Code.ALWAYS_POSITIVE_SIGN,
        ("conv1, conv2 and 3 more", " on some of their channels", "keep="),
    ),
    "neck, head: BatchNorm behind 3 sums of more than 2 bypassed signals": (
        Code.SUMS_NORMED,
        ("neck, head", "3", "2"),
    ),
    "neck: BatchNorm behind a sum of more than 2 bypassed signals": (Code.SUM_NORMED, ("neck", "2")),
}
"""As versions before the codes wrote them."""


def test_each_code_has_an_example() -> None:
    assert {code for code, _ in SENTENCES.values()} == set(Code) - {Code.OTHER}
    told = {code for code, _ in EARLIER_SENTENCES.values()}
    assert set(EARLIER.values()) <= told


@pytest.mark.parametrize("sentence", list(SENTENCES))
def test_a_sentence_is_read_as_what_it_was(sentence: str) -> None:
    said, read = Statement(*(SENTENCES[sentence][0], *SENTENCES[sentence][1])), Statement.read(sentence)
    assert str(said) == sentence
    for other in (said, read, pickle.loads(pickle.dumps(said)), copy.deepcopy(read)):
        assert ((other.code, other.values), other) == (SENTENCES[sentence], sentence)
        assert other.is_warning == sentence.startswith("warning: ")


@pytest.mark.parametrize("sentence", list(EARLIER_SENTENCES))
def test_a_sentence_of_an_earlier_version_is_read_as_its_code(sentence: str) -> None:
    read, (code, values) = Statement.read(sentence), EARLIER_SENTENCES[sentence]
    assert (read.code, read.values) == (code, values)
    assert read == Statement(code, *values)


@pytest.mark.parametrize(
    "text",
    ["keeps " + " (" * 100_000, ": sums of more than " * 10_000, "keeps relu (" + ")" * 200_000 + "."],
    ids=["brackets", "parts", "ends"],
)
def test_long_texts_are_read(text: str) -> None:
    """A search that starts over at each part of such a text takes minutes."""
    assert Statement.read(text) == text


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("keeps a (b) (c)", (Code.KEEPS_IN_FORWARD, ("a", "b) (c"))),
        ("keeps relu (a factor)", (Code.KEEPS_FACTOR, ("relu",))),
        ("keeps ", (Code.KEEPS, ("",))),
        ("a -> b -> c", (Code.BECOMES, ("a", "b -> c"))),
        ("keeps a (b", (Code.KEEPS, ("a (b",))),
        ("its weight is read in a forward that writes parameters", (Code.WEIGHT_READ, ("weight",))),
        ("frozen", (Code.OTHER, ("frozen",))),
        ("", (Code.OTHER, ("",))),
    ],
)
def test_values_are_as_short_as_can_be_from_the_left(
    sentence: str, said: tuple[Code, tuple[str, ...]]
) -> None:
    read = Statement.read(sentence)
    assert (read.code, read.values) == said


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

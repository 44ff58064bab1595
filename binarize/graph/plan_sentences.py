"""Everything a plan says, as codes: the sentence of each code is written here and nowhere else.

Code that decides compares codes, never words. Files and JSON hold the sentences, from which
`Statement.read` recovers the codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from binarize.errors import listed

_WARNING = "warning: "


class Code(Enum):
    """Statements about a layer, a norm, an activation, a sum or a whole network, each with its sentence.

    Each `{}` in a sentence is one of its values, in order.
    """

    # -- layers that stay float: the user's policy
    NOT_NAMED = "not named by only"
    KEPT_BY_NAME = "kept by name"
    SEES_PARAMETERS = "sees parameters only"
    STEM = "stem: sees the input"
    FIRST_LAYERS = "among the first {} layers"
    FINAL = "final classifier or regressor"
    LAST_LAYERS = "among the last {} layers"
    GATE = "squeeze-excite gate"
    POOLED = "on a pooled vector"
    NO_BATCH = "on a vector without a batch"
    # -- layers that stay float: the layer, or how it is used
    BINARY_ALREADY = "is binary already"
    CONSTANT_WEIGHT = "frozen: its weight is a constant"
    NOT_CALLED = "not called on the example input"
    WEIGHT_USED = "its weight is used by a function, the layer is not called"
    WEIGHT_WRITTEN = "its {} is written by the forward of {}"
    WEIGHT_READ = "its {} is read in a forward that writes parameters"
    COMPUTED_WITH = "a forward computes with its {}, which a binary layer keeps as bits or not at all"
    MORE_ARGUMENTS = "is called with more than {}"
    OWN_FORWARD = "{} has a forward of its own that cannot be taken apart: {}"
    PATCHED = "the forward of {} was replaced on the instance: undo that first"
    # -- binary layers
    SHARED = "shared: one layer, called several times"
    SUM_IS_BYPASS = "the sum that stays is its bypass"
    ADDED_TO_SIGNAL = "is added to a value that carries a signal already"
    BESIDE_BYPASS = "runs beside a branch that has one"
    REDUCED = "by what the layers cost, the cheaper form of {} in {}"
    # -- norms
    NONE = "none"
    NEW_NORM = "fresh {}"
    TAKES_NORM = "takes over {}"
    NORM_REMOVED = "removes {}"
    NORM_REPLACED = "replaces {}"
    NORM_IN_FRONT_REMOVED = "removes {} in front"
    SCALE_REMOVED = "layer scale removed"
    NORMS_STAY = "the norms behind its calls stay"
    NORM_STAYS = "{} behind stays"
    NORM_STAYS_HELD = "{} behind stays (parametrized, or with state dict hooks)"
    NORM_STAYS_READ = "{} behind stays (its tensors are read elsewhere)"
    NORM_BECOMES_BATCH = "{} behind becomes BatchNorm"
    NORM_ADDED = "BatchNorm in front: without it, the deviation of the input is {}"
    # -- activations and sums
    KEEPS = "keeps {}"
    KEEPS_AT_OUTPUT = "keeps {} (at an output)"
    KEEPS_FACTOR = "keeps {} (a factor)"
    KEEPS_UNKNOWN_CHANNELS = "keeps {} (its channels are not known)"
    KEEPS_IN_FORWARD = "keeps {} ({})"
    INSIDE_UNIT = "{} inside the unit"
    BECOMES = "{} -> {}"
    SUM_DROPPED = "outer sum dropped"
    SUM_STAYS = "sum stays: {}"
    SUM_STAYS_PARTIAL = "sum stays: the branch does not carry its input to the end"
    CANNOT_REWRITE = "{} cannot be rewritten: {}"
    CALLED_AGAIN = "is called several times"
    # -- attention
    ATTENTION_INSIDE = "is computed inside {}, which is not taken apart"
    ATTENTION_SPREAD = "its products are in the forwards of two modules, {} and {}"
    ATTENTION_ROWS_READ = "its softmax rows are multiplied {} times"
    ATTENTION_NO_SCORES = "what its softmax sees is not a product of queries and keys"
    ATTENTION_PRODUCTS = "its products are not plain matrix products (@, matmul or bmm)"
    NO_ATTENTION = "a product of two activations without a softmax between two products"
    # -- notes on the network
    COMPILED = "the model is compiled: its binary copy has to be compiled anew"
    WRITES = "the forward of {} writes to {}, which stays as it is"
    DATA_DEPENDENT = (
        "control flow depends on data: the plan holds for the branches that the example input took"
    )
    PART_BY_PART = "{}: converted part by part ({})"
    FUNCTION_STAYS = "1 convolution or linear map is called as a function and stays float"
    FUNCTIONS_STAY = "{} convolutions or linear maps are called as functions and stay float"
    HOOKS_MOVED = "hooks of {}: now run on the replacement, a binary layer with norm and bypass"
    STATE_HOOKS_LOST = "state dict hooks of {}: are removed together with the module"
    HOOKS_SILENT = "hooks of {}: do not run where its calls moved into a unit"
    TIE_CUT = "{}: shared one weight; now each has its own pieces"
    SUM_NORMED = "{}: BatchNorm behind a sum of more than {} bypassed signals"
    SUMS_NORMED = "{}: BatchNorm behind {} sums of more than {} bypassed signals"
    SUMS_GROW = (
        "{}: sums of more than {} bypassed signals have no norm behind, because their forward cannot be "
        "rewritten; signals grow there"
    )
    # -- warnings
    HOLDS_MODULES = (
        _WARNING + "{}: holds modules of the given model, and functions are not copied: what it calls there "
        "stays float and trains the given model. Make it a method of its module, or let it find the modules "
        "when it is called"
    )
    ALWAYS_POSITIVE_SIGN = (
        _WARNING
        + "{}: see no negative value{}, so that the sign is +1 there whatever the image, and nothing "
        "is learnt from it. What helps: {}"
    )
    ALWAYS_ONE = (
        _WARNING
        + "{}: see positive values only{}, so that the bit is 1 there whatever the image, and nothing "
        "is learnt from it. What helps: {}"
    )
    FINAL_BINARY = (
        _WARNING + "{} becomes binary, although {} is its result: its values and their range change; "
        "Policy(last=1) or keep= leaves it float"
    )
    OUTPUT_CHANGED = (
        _WARNING
        + "{} in front of {} is replaced by the method's activation: the range of these features changes"
    )
    NO_BINARY_ATTENTION = (
        _WARNING + "attention='binary' changes nothing: of {} attention steps of the network none can be "
        "binary{}"
    )
    # -- texts from elsewhere: a method that refuses a layer, a layer without a binary replacement, other
    # versions
    OTHER = "{}"


class Statement(str):
    """A sentence of a plan: a string that knows its code and what it is about.

    Attributes:
        code: see `Code`.
        values: inserted for the `{}` of the sentence.
    """

    code: Code
    values: tuple[Any, ...]

    def __new__(cls, code: Code, *values: Any) -> Statement:
        """The sentence of `code` about `values`."""
        made = super().__new__(cls, code.value.format(*values))
        made.code, made.values = code, values
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:  # type: ignore[override]
        return self.code, *self.values

    @property
    def is_warning(self) -> bool:
        """Something is wrong, although the network runs."""
        return self.startswith(_WARNING)

    @classmethod
    def read(cls, text: str) -> Statement:
        """The statement of a sentence from a file; code `OTHER` if no code has this sentence."""
        if isinstance(text, cls):
            return text
        if text in _PLAIN:
            return cls(_PLAIN[text])
        for code, parts in _WITH_VALUES:
            found = _values(text, *parts)
            if found is not None:
                return cls(code, *found)
        return cls(Code.OTHER, text)


def joined(statements: Iterable[Statement]) -> str:
    """Several statements on one subject."""
    return ", ".join(statements)


def several(what: str, names: Iterable[str]) -> str:
    """`outputs a, b`; only `output` if that is the name."""
    every = list(names)
    return f"{what}{'s' if len(every) > 1 else ''} {listed(every)}" if every != [what] else what


EARLIER = {
    "1 convolutions or linear maps are called as functions and stay float": Code.FUNCTION_STAYS,
    "what it is added to carries a signal already": Code.ADDED_TO_SIGNAL,
    "what its softmax sees is no product of queries and keys": Code.ATTENTION_NO_SCORES,
    "sum stays: the branch does not carry its input all the way": Code.SUM_STAYS_PARTIAL,
    "a forward computes with its {}, of which bits or nothing would be left": Code.COMPUTED_WITH,
    "BatchNorm in front: {} is its input's deviation without": Code.NORM_ADDED,
    "keeps {} (its channels cannot be told)": Code.KEEPS_UNKNOWN_CHANNELS,
    "the forward of {} writes to {}: what it writes to stays as it is": Code.WRITES,
    "control flow depends on data: the plan holds for the way that the example input took": (
        Code.DATA_DEPENDENT
    ),
    "hooks of {}: see what stands there now, a binary layer with norm and bypass": Code.HOOKS_MOVED,
    "state dict hooks of {}: go with the module that they know": Code.STATE_HOOKS_LOST,
    "state dict hooks of {}: are removed with the module that they know": Code.STATE_HOOKS_LOST,
    "{}: shared one weight, now in pieces that are each one's own": Code.TIE_CUT,
    "{}: sums of more than {} bypassed signals have no norm behind, for their forward cannot be rewritten; "
    "signals grow there": Code.SUMS_GROW,
}
"""Sentences in files of earlier versions; `Statement.read` gives today's sentence for them."""

_SENTENCES = {**{code.value: code for code in Code if code is not Code.OTHER}, **EARLIER}
_PLAIN = {sentence: code for sentence, code in _SENTENCES.items() if "{}" not in sentence}
# Values may be sentences: `keeps {} ({})` before `{} cannot be rewritten: {}`, which the brackets may hold.
# Of those that begin alike the longest is first: `keeps {} (a factor)` before `keeps {}`.
_WITH_VALUES = sorted(
    ((code, sentence.split("{}")) for sentence, code in _SENTENCES.items() if "{}" in sentence),
    key=lambda item: (-len(item[1][0]), -len("{}".join(item[1]))),
)


def _values(text: str, first: str, *others: str) -> tuple[str, ...] | None:
    """What stands between these parts of a sentence in `text`, or None if they are not all there, in order.

    Each part is searched for once: a text from a file may be long and made for many searches.
    """
    *middle, last = others
    end = len(text) - len(last)
    if not (text.startswith(first) and text.endswith(last)):
        return None
    start, found = len(first), []
    for part in middle:
        stop = text.find(part, start, end)
        if stop < 0:
            return None
        found.append(text[start:stop])
        start = stop + len(part)
    return (*found, text[start:end]) if start <= end else None

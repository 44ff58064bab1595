"""The speed of a packed network, compared with its float counterpart in torch, ONNX Runtime and OpenVINO."""

from binarize.bench.advice import advice, slower_than
from binarize.bench.measure import Bench, Variant, bench
from binarize.bench.picture import picture
from binarize.bench.suite import SUITE, Entry, Networks, run_entry, summary
from binarize.bench.suite_picture import suite_picture
from binarize.bench.variants import BASELINES, check_baselines, variants

__all__ = [
    "BASELINES",
    "SUITE",
    "Bench",
    "Entry",
    "Networks",
    "Variant",
    "advice",
    "bench",
    "check_baselines",
    "picture",
    "run_entry",
    "slower_than",
    "suite_picture",
    "summary",
    "variants",
]

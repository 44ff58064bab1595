"""Files: one safetensors file per model with a header that says how to rebuild it; no pickle."""

from binarize.errors import first_line
from binarize.files.checkpoint import CheckpointReport, load_checkpoint
from binarize.files.container import check_target, write_bytes
from binarize.files.find_source import find_source
from binarize.files.float_source import build, check_arguments, create_timm
from binarize.files.header import ENTRY, FORMAT_VERSION, PACKED_VERSION, Header, PackedHeader
from binarize.files.load import load, read_header, read_preprocessing
from binarize.files.partial_checkpoint import PartialMatch, match_in_part
from binarize.files.save import deployed_size, save
from binarize.option_texts import parse_kwargs

__all__ = [
    "ENTRY",
    "FORMAT_VERSION",
    "PACKED_VERSION",
    "CheckpointReport",
    "Header",
    "PackedHeader",
    "PartialMatch",
    "build",
    "check_arguments",
    "check_target",
    "create_timm",
    "deployed_size",
    "find_source",
    "first_line",
    "load",
    "load_checkpoint",
    "match_in_part",
    "parse_kwargs",
    "read_header",
    "read_preprocessing",
    "save",
    "write_bytes",
]

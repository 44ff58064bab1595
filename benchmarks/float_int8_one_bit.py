"""Float, int8 or one bit: accuracy, file and time of trained networks in each form, as one table.

    python benchmarks/float_int8_one_bit.py runs/float runs/bidense 'zoo:camvid-*'
        [--runners onnxruntime,onnxruntime-int8,openvino-int8] [--results forms.json] [--out table.md]
        [--plot forms.png [--figure delta1]] [--times-only] [--pause] [--json]

A float network is run by ONNX Runtime in float32 and as static int8 (its quantizer: QDQ, a scale per output
channel of weights, calibrated on images of the training split), and by OpenVINO if asked for; a binary one
from its packed file by the kernels. Each form is evaluated itself, on the test split, then all forms on one
data set are timed in turn on one image. Runs that are not at their end are left out.

`RECIPE=FIGURE:VALUE,...` in place of a run: an untrained network, packed and timed, beside figures that are
known from elsewhere.

--results keeps rows: those of earlier runs stay, and are in the table and the picture too. --out writes the
table; in a file that has the lines <!-- forms --> and <!-- end of forms -->, it replaces what stands between.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from binarize import forms
from binarize.errors import BinarizeError, ConfigError
from binarize.files import check_target, write_bytes
from binarize.runtime import keep_memory

BEGIN, END = "<!-- forms -->", "<!-- end of forms -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write what is asked for; the exit status."""
    given = _parser().parse_args(arguments)
    keep_memory()
    before, threads = torch.get_num_threads(), given.threads
    torch.set_num_threads(threads)
    try:
        _run(given)
    except BinarizeError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(before)
    return 0


def _run(given: argparse.Namespace) -> None:
    for target in filter(None, (given.results, given.out, given.plot)):
        check_target(target)
    if given.out is not None:
        written_into(given.out, "")  # a mistake there comes before the work
    sources, left_out = forms.find(given.networks)
    for sentence in left_out:
        _tell(sentence)
    document: dict[str, Any] = {"data": {}}
    if given.results is not None and given.results.exists():
        document = _read(given.results)
    if sources:
        settings = forms.Settings(
            runners=tuple(name for name in given.runners.split(",") if name),
            images=given.images,
            rounds=given.rounds,
            accuracy=not given.times_only,
            root=given.data,
        )
        wait = _pause if given.pause else lambda: None
        document = forms.merged(document, forms.measure(sources, settings, tell=_tell, before_times=wait))
    if given.results is not None:
        write_bytes(given.results, (json.dumps(document, indent=1) + "\n").encode())
    if given.out is not None:
        write_bytes(given.out, written_into(given.out, forms.markdown(document)).encode())
    if given.plot is not None:
        write_bytes(given.plot, forms.picture(document, given.figure))
    print(
        json.dumps(document, indent=1) if given.json else forms.text(document), end="\n" if given.json else ""
    )


def written_into(path: Path, table: str) -> str:
    """The table; if the file has the two marks, its text with the table between them.

    Raises:
        ConfigError: it exists and has no marks.
    """
    if not path.exists() or not (text := path.read_text(encoding="utf-8")).strip():
        return table
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{path} exists, and has no lines {BEGIN} and {END} to write between.")
    return f"{head}{begin}\n\n{table}\n{end}{tail}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        [group["rows"] for group in found["data"].values()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"--results {path} exists and holds no rows of this benchmark.") from error
    return found


def _pause() -> None:
    """Wait for Enter: what else the machine does can be stopped meanwhile."""
    _tell("ready to be timed; press Enter when the machine does nothing else")
    sys.stdin.readline()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    parser.add_argument("--runners", default="onnxruntime,onnxruntime-int8", help=", ".join(forms.RUNNERS))
    parser.add_argument("--images", type=int, default=100, help="to calibrate on")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each form")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="folder of the data set")
    parser.add_argument("--times-only", action="store_true", help="evaluate nothing")
    parser.add_argument("--pause", action="store_true", help="wait for Enter before the times are taken")
    parser.add_argument("--results", type=Path, metavar="FILE.json")
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--figure", help="to draw in place of the main one")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

"""`binarize bench --suite`: a fixed list of networks, printed row by row, with files to continue from."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binarize.cli.bench_networks import Asked, images, networks, output_files, setting, setting_lines
from binarize.cli.bench_suite_table import SuiteTable, print_summary
from binarize.cli.options import DEFAULT_METHOD, configure
from binarize.cli.output import counted, print_json, progress, say, tell
from binarize.errors import ConfigError

if TYPE_CHECKING:
    from binarize.bench import Entry, Networks

INCOMPLETE = 1
"""Exit status if a network or a baseline failed."""

_PER_LAYER = "granularity=layer"


def run_suite(asked: Asked, patterns: Sequence[str], out: Path | None, *, fresh: bool, as_json: bool) -> int:
    """Time the suite's networks, print each as it is done, and write files if `out` is given.

    Args:
        asked: options.
        patterns: of networks; all if empty.
        out: the files' name without ending; rows that the first one holds are not measured again.
        fresh: measure them again.
        as_json: print JSON in place of the table.

    Returns:
        The exit status.
    """
    from binarize import bench as measure

    asked = _with_default_method(asked)
    against, reasons = _against(asked)
    document: dict[str, Any] = {"setting": _setting(asked, against), "against": against, "rows": []}
    if out is not None and not fresh:
        document["rows"] = _done(out, document["setting"])
    entries = _chosen(patterns)
    done = {row["network"]: row for row in document["rows"]}
    table = None if as_json else SuiteTable([e.target for e in entries], packed_names(asked), against)
    if table is not None:
        _print_head(document, reasons)
    for entry in entries:
        row = done.get(entry.target)
        if row is None:
            with progress(f"measuring {entry.target}"):
                row = measure.run_entry(entry, lambda e: _build(e, asked), against, **asked.turns)
            done[entry.target] = row
            document["rows"] = [done[e.target] for e in measure.SUITE if e.target in done]
            if out is not None:
                _write(out, document)
        if table is not None:
            table.show(row)
    document["summary"] = measure.summary(document["rows"])
    if out is not None:
        _write(out, document, with_picture=any("error" not in row for row in document["rows"]))
    if as_json:
        print_json(document)
    elif table is not None:
        print_summary(document, table, setting_lines)
        if out is not None:
            say(f"written  {', '.join(map(str, output_files(out)))}")
    return INCOMPLETE if any(map(_incomplete, document["rows"])) else 0


def packed_names(asked: Asked) -> list[str]:
    """Names of the packed networks: as given, and with one scale per layer if no option of the method is."""
    from binarize.bench.suite import LAYER, PACKED

    method = configure(asked.method or DEFAULT_METHOD, ())
    both = not asked.settings and getattr(method, "granularity", "layer") != "layer"
    return [PACKED, LAYER] if both else [PACKED]


def _with_default_method(asked: Asked) -> Asked:
    import dataclasses

    asked = dataclasses.replace(asked, method=asked.method or DEFAULT_METHOD)
    configure(asked.method or "", asked.settings)  # a mistake there is no failure of each network
    return asked


def _against(asked: Asked) -> tuple[list[str], dict[str, str]]:
    """Names of baselines; why others of the usual ones cannot run here, by name."""
    from binarize.bench import check_baselines
    from binarize.bench.suite import possible

    if asked.against is None:
        return possible()
    check_baselines(asked.against)
    return list(asked.against), {}


def _chosen(patterns: Sequence[str]) -> list[Entry]:
    from binarize.bench import SUITE

    for pattern in patterns:
        if not fnmatch.filter([entry.target for entry in SUITE], pattern):
            names = ", ".join(entry.target for entry in SUITE)
            raise ConfigError(f"--pattern {pattern!r} matches no network of the suite; it has {names}.")
    return [e for e in SUITE if not patterns or any(fnmatch.fnmatch(e.target, p) for p in patterns)]


def _build(entry: Entry, asked: Asked) -> Networks:
    """What is timed of an entry."""
    import dataclasses

    from binarize.bench import Networks

    packed, plain, shape = networks(entry.target, None, asked)
    made = {}
    for name in packed_names(asked):
        if not made:
            made[name] = packed
        else:
            per_layer = dataclasses.replace(asked, settings=(_PER_LAYER,))
            made[name] = networks(entry.target, None, per_layer)[0]
    x = images(entry.target, shape, (entry.size, entry.size), asked.batch)
    return Networks(packed=made, plain=plain, x=x, setting=setting(packed))


def _setting(asked: Asked, against: Sequence[str]) -> dict[str, Any]:
    """All that rows in one file have in common."""
    import dataclasses

    import binarize
    from binarize.bench.measure import machine
    from binarize.bench.rivals import RIVALS, versions

    given = dataclasses.asdict(asked)
    given |= {"against": list(against), "settings": list(asked.settings)}
    packages = {"binarize": binarize.__version__, **versions(tuple(n for n in against if n in RIVALS))}
    return {**given, "machine": machine(), "packages": packages}


def _done(out: Path, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows without a failure in the file that `out` names, if it is there.

    Raises:
        ConfigError: it was not written by a suite, or with other settings.
    """
    path = output_files(out)[0]
    if not path.exists():
        return []
    remedy = "choose another --out, or measure all again with --fresh"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows, given = found["rows"], found["setting"]
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ConfigError(f"{str(path)!r} exists and does not hold rows of a suite: {remedy}.") from error
    for name in wanted:
        if given.get(name) != wanted[name]:
            raise ConfigError(
                f"{str(path)!r} holds rows that were measured with another {name} ({given.get(name)}, now "
                f"{wanted[name]}): {remedy}."
            )
    return [row for row in rows if not _incomplete(row)]


def _incomplete(row: dict[str, Any]) -> bool:
    return "error" in row or bool(row["failed"])


def _write(out: Path, document: dict[str, Any], *, with_picture: bool = False) -> None:
    from binarize.bench import suite_picture
    from binarize.files import write_bytes

    for_programs, for_people = output_files(out)
    write_bytes(for_programs, (json.dumps(document, indent=2) + "\n").encode())
    if with_picture:
        write_bytes(for_people, suite_picture(document))


def _print_head(document: dict[str, Any], reasons: dict[str, str]) -> None:
    given = document["setting"]
    machine, packages = given["machine"], given["packages"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    batch = "" if given["batch"] == 1 else f", {given['batch']} images at once"
    threads = counted(given["threads"], "thread")
    tell(f"{threads}{batch}, {machine['cpu']} ({machine['kernels']}), torch {machine['torch']}, {versions}")
    for name, why in reasons.items():
        tell(f"- without {name}: {why}.")
    say()

"""Output files of commands: refused before long work if they cannot be written, or exist."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from binarize.errors import ConfigError


def check_output(
    target: Path, *, force: bool, option: str = "--out", ending: str = "", source: Path | None = None
) -> None:
    """Refuse an output file that cannot be written, or that would replace what it must not.

    Args:
        target: the file.
        force: an existing file may be replaced.
        option: the command's option that names the file.
        ending: of its name; empty for any.
        source: the file that is read, which is never replaced.

    Raises:
        ConfigError: the message says which of these it is, and what to do.
    """
    from binarize.files import check_target

    if check_target(target) == (None if source is None else source.resolve()):
        raise ConfigError(
            f"{option} {str(target)!r} is FILE itself, which cannot be restored from the new file: choose "
            "another name."
        )
    if ending and target.suffix != ending:
        raise ConfigError(f"{option} {str(target)!r}: expected a name that ends in {ending}.")
    refuse_existing([target], force=force, option=option)


def beside(out: Path | None, *endings: str) -> tuple[Path, ...]:
    """The files that --out names without their endings: OUT.json for `json`; none without --out.

    Raises:
        ConfigError: it names a folder, or a file cannot be written.
    """
    from binarize.files import check_target

    if out is None:
        return ()
    if out.is_dir():
        names = " and ".join(str(out / f"NAME.{ending}") for ending in endings)
        raise ConfigError(
            f"--out {str(out)!r} is a folder; expected the name of files without their ending: --out "
            f"{out / 'NAME'} writes {names}."
        )
    found = tuple(out.with_name(f"{out.name}.{ending}") for ending in endings)
    for path in found:
        check_target(path)
    return found


def refuse_existing(targets: Iterable[Path], *, force: bool, option: str = "--out") -> None:
    """Refuse to replace files without --force.

    Raises:
        ConfigError: naming the first one that exists.
    """
    taken = next((path for path in targets if path.exists()), None)
    if taken is not None and not force:
        raise ConfigError(
            f"{str(taken)!r} exists already; replace it with --force, or choose another {option}."
        )

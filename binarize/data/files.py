"""Finding the files of a data set: lists, folders, pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from binarize.data.dataset import Pair
from binarize.errors import DataError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def inside(root: Path, name: str) -> Path:
    """`root`, or the folder `name` in it, whichever is called so."""
    return root if root.name == name or not (root / name).is_dir() else root / name


def folder(path: Path, what: str) -> Path:
    """`path`, if it is a folder.

    Raises:
        DataError: it is none.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected {what}.")
    return path


def lines(path: Path) -> dict[int, str]:
    """Lines of a list file by their numbers, without empty ones.

    Raises:
        DataError: it is missing, no text, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such list file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list file ({error}).") from error
    found = {n: line.strip() for n, line in enumerate(text.splitlines(), start=1) if line.strip()}
    if not found:
        raise DataError(f"{path}: the list is empty.")
    return found


def columns(path: Path, count: Sequence[int]) -> list[list[str]]:
    """Columns of a list file, with blanks between; names with spaces are told by their endings.

    Args:
        path: of the list.
        count: how many columns a line may have.

    Raises:
        DataError: as `lines`, and a line with another number of columns.
    """
    found = []
    for number, line in lines(path).items():
        parts = _columns(line)
        if len(parts) not in count:
            expected = " or ".join(map(str, count))
            raise DataError(f"{path}, line {number}: {len(parts)} columns, expected {expected}: {line!r}.")
        found.append(parts)
    return found


def _columns(line: str) -> list[str]:
    parts: list[str] = []
    pending = ""
    for word in line.replace("\t", " ").split(" "):
        pending = f"{pending} {word}" if pending else word
        if not pending:
            continue
        name = Path(pending)
        if name.suffix.lower() in IMAGES or pending in ("None",) or _is_number(pending):
            parts.append(pending)
            pending = ""
    return [*parts, pending] if pending else parts


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def images(path: Path) -> list[Path]:
    """Image files of a folder, sorted by name.

    Raises:
        DataError: it is no folder, or holds none.
    """
    found = sorted(p for p in folder(path, "images").iterdir() if p.suffix.lower() in IMAGES)
    if not found:
        raise DataError(f"{path}: no image in this folder ({', '.join(IMAGES)}).")
    return found


def existing(pairs: Iterable[Pair], source: Path) -> list[Pair]:
    """The pairs, all of whose files exist.

    Raises:
        DataError: some do not, or there is no pair; the first ones are named.
    """
    found = list(pairs)
    if not found:
        raise DataError(f"{source}: no image with a truth.")
    missing = [p for pair in found for p in pair if p is not None and not p.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"{source}: missing {', '.join(map(str, missing[:3]))}{more}.")
    return found

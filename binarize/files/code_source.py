"""Networks that the user's own code builds: what a file says of them, and whether that code may run again.

A file must not make anyone run code by being read. So it names the code and bears a signature, made with a
key that lies in the home folder of whoever trained it: for that account the code runs again, as it did at the
training; for all others the file is one of a custom class, which needs the model from its reader.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from binarize.errors import ConfigError, warn
from binarize.files.checksum import canonical_json
from binarize.model_info import qualified_name
from binarize.user_code import Code, parts

TRUST = "BINARIZE_TRUST_CODE"
"""Environment variable: `1` lets files of others run the code that they name."""


def code_source(model: nn.Module, code: Code, options: Mapping[str, Any]) -> dict[str, Any]:
    """The source, signed, of a network that `code` has just built because the user asked for it.

    Args:
        model: the network.
        code: that built it.
        options: with which it builds the same network without loading weights.

    Raises:
        ConfigError: an option that a file cannot hold.
    """
    place, name, _ = parts(code.text)
    place = place if code.path is None else str(code.path.resolve())
    try:
        plain = json.loads(json.dumps(dict(options), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{code.text}: options {dict(options)} cannot be written to a file: {error}."
        ) from None
    entry = {"name": f"{place}:{name}", "options": plain, "sha256": code.fingerprint()}
    if code.folder is not None and code.found_in_folder():
        entry["folder"] = str(code.folder.resolve())
    if (key := _made_key()) is not None:
        entry["signature"] = _signature(entry, key)
    return {"source": "custom", "class": qualified_name(model), "code": entry}


def check_code(source: Mapping[str, Any], where: str) -> None:
    """Refuse to run code that this account did not name itself; warn if its file was changed since.

    Args:
        source: of a file, of the kind `custom`.
        where: names the file in messages.

    Raises:
        ConfigError: the file says no code, or it was signed by another account.
    """
    entry = source.get("code")
    hint = "binarize.load(path, model=...), or on the command line --model FILE.py:CALLABLE"
    if entry is None:
        raise ConfigError(
            f"{where} holds a model of the custom class {source['class']}: give the float model "
            f"that it was made from, {hint}."
        )
    if not _trusted(entry):
        options = ", ".join(f"{name}={value!r}" for name, value in entry["options"].items())
        raise ConfigError(
            f"{where} holds a model of the custom class {source['class']}, which the code "
            f"{entry['name']}({options}) builds. This account did not train it, and code is not run because "
            f"a file names it: give the float model, {hint}; or read that code, then set {TRUST}=1."
        )
    code = Code(entry["name"], None)
    if code.path is not None and code.path.is_file() and code.fingerprint() != entry["sha256"]:
        warn(f"{code.path} was changed after the training: the network is built by the new text.")


def build_by_code(source: Mapping[str, Any]) -> nn.Module:
    """The float network of a source that `check_code` lets pass; its `binarize_spec` is the source.

    Raises:
        ConfigError: the code is not there any more, fails, or is another account's.
    """
    check_code(source, "the file")
    entry = source["code"]
    model = _located(entry).build(**entry["options"])
    model.binarize_spec = dict(source)  # type: ignore[assignment] - a plain attribute
    return model


def _located(entry: Mapping[str, Any]) -> Code:
    """The code where it was; under the current folder, which may be a stranger's, only if the reader asks so.

    A signature proves nothing there: it can be copied from another file, and says nothing of modules, nor of
    those that a file imports.
    """
    folder = Path(entry["folder"]) if "folder" in entry else None
    code = Code(entry["name"], folder)
    if code.path is None:
        gone = folder is None or not folder.is_dir()
        return Code(entry["name"], Path.cwd()) if gone and _trusts_all() else code
    if code.path.is_file():
        return code
    for start in range(1, len(code.path.parts)) if _trusts_all() else ():
        moved = Code(f"{Path(*code.path.parts[start:]).resolve()}:{code.name}", None)
        if moved.path is not None and moved.path.is_file() and moved.fingerprint() == entry["sha256"]:
            return moved
    under = ", nor is the same text under the current folder" if _trusts_all() else ""
    other = "" if under else f", or go to the folder that it was moved to and set {TRUST}=1"
    raise ConfigError(
        f"the code that builds the network, {entry['name']}, is not there any more{under}: give the float "
        f"model (model=..., --model FILE.py:CALLABLE){other}."
    )


def _trusts_all() -> bool:
    return os.environ.get(TRUST) == "1"


def _trusted(entry: Mapping[str, Any]) -> bool:
    if _trusts_all():
        return True
    key = _key()
    return key is not None and hmac.compare_digest(
        str(entry.get("signature", "")).encode(), _signature(entry, key).encode()
    )


def _signature(entry: Mapping[str, Any], key: bytes) -> str:
    said = {name: value for name, value in entry.items() if name != "signature"}
    return hmac.new(key, canonical_json(said).encode(), hashlib.sha256).hexdigest()


def _key_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "binarize" / "key"


def _key() -> bytes | None:
    """This account's key; None if there is none."""
    try:
        text = _key_file().read_text(encoding="ascii").strip()
    except (OSError, RuntimeError, ValueError):
        return None
    return text.encode() if len(text) == 64 else None


def _made_key() -> bytes | None:
    """This account's key, made if there is none; None, with a warning, if none can be kept."""
    try:
        file = _key_file()
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            _write_key(file)
        key = _key()
        reason = f"{file} does not hold 64 characters: remove it"
    except (OSError, RuntimeError) as error:
        key, reason = None, str(error)
    if key is None:
        warn(
            f"no key can be kept in the home folder ({reason}), so the network's file cannot say that the "
            f"code was named here: commands that read it need --model or {TRUST}=1."
        )
    return key


def _write_key(file: Path) -> None:
    """A fresh key, whole or not at all; of several processes the first wins."""
    fresh = file.with_name(f"key-{secrets.token_hex(8)}")
    try:
        fresh.touch(mode=0o600, exist_ok=False)
        fresh.write_text(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)

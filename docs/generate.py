"""Write the pages that are made from code, docs/cli.md and docs/catalogue.md: `python docs/generate.py`.

`tests/docs/test_generated_pages.py` fails where a page is not what this would write.
"""

from __future__ import annotations

import html
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from binarize import methods
from binarize.cli import cli
from binarize.cli.method_facts import facts_of

HERE = Path(__file__).parent
MADE = "<!-- Made by `python docs/generate.py`; do not edit. -->\n"


# ---------------------------------------------------------------------------------------------- command line

CLI_HEAD = """# Command line

`binarize COMMAND --help` prints the same texts. Results are printed on stdout, progress and warnings on stderr.

## Exit status

| status | when |
|---:|---|
| 0 | done |
| 1 | `coverage` or `bench --suite`: a part failed; any command: the reader of its output closed the pipe, or a defect of the toolkit, with a traceback |
| 2 | wrong usage, an option or file that cannot be used, data with errors (`data check`), a disk that is full: one message on stderr, no traceback, nothing half-written |
| 130 | interrupted by Ctrl-C |

## Shell completion

[Click](https://click.palletsprojects.com/) makes the script for Bash, Zsh and Fish. For Bash, once:

<!-- run: no, it changes the shell's configuration -->
```bash
_BINARIZE_COMPLETE=bash_source binarize > ~/.binarize-complete.bash
echo '. ~/.binarize-complete.bash' >> ~/.bashrc
```

With Zsh it is `zsh_source` and `~/.zshrc`, with Fish `fish_source` and a file in `~/.config/fish/completions`.

## Options that mean the same everywhere

| option | meaning |
|---|---|
| `-q`, `--quiet` | in front of the command (`binarize -q train RECIPE`): no progress and no warnings |
| `-v`, `--verbose` | in front of the command: errors with the traceback, and all Python warnings |
| `-o`, `--out`, `--output` | the file or folder that is written |
| `--force` | replace it if it exists |
| `--json` | print one JSON document in place of tables and text |
| `-m`, `--method` | the method |
| `--set NAME=VALUE` | an option of the method (`convert`, `bench`, `methods show`), or a value of the recipe (`train`, `compare`, `data`, `recipes show`); can be repeated |
| `--size`, `--input-size` | image size: 224, 480x640 (height x width) or 3,480,640 (channels, height, width) |
| `--data` | folder of the data set; by default it is looked for in the folder that `BINARIZE_DATA` names |
| `--split` | part of the data set |
| `--model` | the float network, for files of a network whose class they do not hold ([Train your network](own-network.md#files-and-who-may-run-the-code)) |
| `--exact-scales` | do not round scales per channel ([Scales per image and channel](kernels.md#scales-per-image-and-channel)) |
| `--pattern` | only what matches this pattern |
| `--device` | where to run: cpu, cuda, cuda:1, mps |
| `--best` | of a run's folder, the network of the epoch that was best on the validation split |
| `-j`, `--jobs` | processes at a time |

## Options that differ

Three names mean something else in some commands:

| option | meaning |
|---|---|
| `--images` | a folder of images (`init`, `calibrate`); how many images (`inspect`, `report`) |
| `--packed` | a packed file (`report`, `verify`); write packed weights (`export`) |
| `--markdown` | print Markdown (`tables`); the file for it (`coverage`) |

## Names of networks

A network is named in the same form everywhere: a file, the folder of a run, `zoo:NAME`, or a MODEL as
[`convert`](#binarize-convert) takes it.
"""


def command_line() -> str:
    """The page `docs/cli.md`."""
    parts = [MADE, CLI_HEAD]
    for path, command, context in commands(cli, click.Context(cli, info_name="binarize")):
        if command is cli:
            continue
        usage = "[OPTIONS] " + " ".join(arguments(command, context))
        parts.append(f"## {path}\n" if path.count(" ") == 1 else f"### {path}\n")
        parts.append(f"```text\n{path} {usage}\n```\n")
        parts.append(paragraphs(command.help or "") + "\n")
        if command.epilog:
            lines = command.epilog.partition("Examples:\n")[2]
            parts.append(
                f"<!-- run: no, tests/cli/test_help.py runs it -->\n```bash\n{textwrap.dedent(lines)}\n```\n"
            )
        rows = [row for parameter in command.get_params(context) if (row := option_row(parameter, context))]
        if rows:
            parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def arguments(command: click.Command, context: click.Context) -> list[str]:
    """What stands behind the options; versions of click write groups in different forms."""
    if isinstance(command, click.Group):
        return ["[COMMAND]" if command.invoke_without_command else "COMMAND", "[ARGS]..."]
    return [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]


def commands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """A command and all below it, with the words that call it."""
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from commands(found, click.Context(found, info_name=name, parent=context))


def option_row(parameter: click.Parameter, context: click.Context) -> str | None:
    """One row of a table; None for arguments, hidden options and `--help`."""
    record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
    if record is None or "--help" in parameter.opts:
        return None
    names, text = (part.replace("\n", " ") for part in record)
    return f"| {code_in_table(names)} | {in_markdown(text).replace('|', '&#124;')} |"


def code_in_table(text: str) -> str:
    """Code in a cell: between backticks GitHub and the site disagree on how a `|` is written."""
    if "|" not in text:
        return f"`{text}`"
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def paragraphs(text: str) -> str:
    """A help text: what click must not rewrap becomes a block of code."""
    made = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            made.append("```text\n" + paragraph.removeprefix("\b").strip("\n") + "\n```")
        else:
            made.append(in_markdown(" ".join(paragraph.split())))
    return "\n\n".join(made)


def in_markdown(text: str) -> str:
    """Options, quoted names and paths as code; what Markdown would read as markup is kept as it is."""
    kept = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(kept), 2):
        plain = re.sub(r"([*>\[\]_])", r"\\\1", kept[index].replace("<", "&lt;"))
        kept[index] = re.sub(r"(?<![\w\\-])(--[a-z][\w-]*)", r"`\1`", plain)
    return "".join(kept)


# ------------------------------------------------------------------------------------------------- catalogue

CATALOGUE_HEAD = """# Catalogue of methods

Each entry has the docstring of the method's file in `binarize/methods/`: *Forward* is what a layer computes, *Backward*
the gradient that passes the sign, *Block* what surrounds the layer, *Departures* where the implementation differs
from the paper. The plots show the gradient that reaches one activation and one latent weight, at the start, in the
middle and at the end of training where it changes. `binarize methods show NAME --plot FILE.png` prints and draws the
same for any options.

Measured: networks of the zoo, UPerNet on ConvNeXt-Atto at 96x128, 40 epochs from scratch, seed 0;
[Measured side by side](comparison.md) has the conditions, more seeds and what such figures do not show.

How to choose: [FAQ](faq.md#which-method-should-i-take). Options: [Options and details](methods.md#options).
"""


def catalogue() -> str:
    """The page `docs/catalogue.md`."""
    parts = [MADE, CATALOGUE_HEAD, overview()]
    for name in built_in():
        cls = methods.get(name)
        found = facts_of(cls.create())
        text = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
        parts.append(f"## {name}\n")
        parts.append(formulas(text))
        parts.append(f"![Gradients of {name}](pictures/method-{name}.png)\n")
        rows = [
            ("class", f"[`{cls.__name__}`](api/methods.md#binarize.methods.{cls.__name__})"),
            ("bits of a weight and an activation", found.bits),
            ("parameters of a layer of C channels beside its weights", found.parameters),
            *measured(name),
        ]
        parts.append(
            "| property | value |\n|---|---|\n"
            + "\n".join(f"| {key} | {value} |" for key, value in rows)
            + "\n"
        )
    return "\n".join(parts)


LABELS = re.compile(
    r"(?:^|(?<=\. ))((?:Forward|Backward|During training|Block|Masked layers|As bits|Dilations|Departures)(?: \([^)]*\))?(?=:|,))",
    re.MULTILINE,
)
"""What begins a part of a method's docstring."""


def formulas(text: str) -> str:
    """A method's docstring as paragraphs: each part begins with what it is about."""
    parts = []
    for paragraph in text.split("\n\n"):
        marked = LABELS.sub("\n\n\\1", paragraph)
        parts.extend(" ".join(part.split()) for part in marked.split("\n\n") if part.strip())
    return "\n\n".join(LABELS.sub(r"**\1**", in_markdown(part)) for part in parts) + "\n"


def overview() -> str:
    """One row for each method."""
    rows = ["| method | year | what it is | paper |", "|---|:---|---|---|"]
    for name in built_in():
        cls = methods.get(name)
        what = cls.describe().partition(": ")[2] or cls.describe()
        paper = re.sub(r"^arXiv (\S+)$", r"[arXiv \1](https://arxiv.org/abs/\1)", cls.paper)
        rows.append(f"| [{name}](#{name}) | {cls.year or ''} | {what} | {paper} |")
    return "\n".join(rows) + "\n"


def built_in() -> list[str]:
    """The methods of the toolkit, in the order of their years."""
    own = [name for name in methods.names() if methods.get(name).__module__.startswith("binarize.")]
    return sorted(own, key=lambda name: (methods.get(name).year or 0, name))


def measured(name: str) -> Iterator[tuple[str, str]]:
    """Rows of the zoo's networks with this method in its default setting, or what to run for them."""
    rows = [*of_zoo(name)]
    if not rows:
        found = of_comparison(name).items()
        rows = [
            (label, f"{text}, one seed ([Measured side by side](comparison.md))") for label, text in found
        ]
    if not rows:
        recipe = f"binarize train nyuv2-397/convnext_atto-{name}"
        rows.append(("measured", f"not yet: accuracy here is unknown. `{recipe}` trains the same network"))
    yield from rows


def of_comparison(name: str) -> dict[str, str]:
    """Figures of a method in its default setting, of the small networks in docs/comparison.md, by what they are."""
    columns = {"mIoU %": "CamVid test: mIoU", "AbsRel": "NYUv2 test: AbsRel"}
    header: list[str] = []
    found: dict[str, str] = {}
    for line in (HERE / "comparison.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "network":
            header = cells
        elif cells[0] == name and "seeds" in header:
            head = next(head for head in columns if head in header)
            found[columns[head]] = cells[header.index(head)] + (" %" if "%" in head else "")
    return found


def of_zoo(name: str) -> Iterator[tuple[str, str]]:
    """Rows of the zoo's networks."""
    figures = {"camvid": ("miou", "CamVid test: mIoU"), "nyuv2-397": ("abs_rel", "NYUv2 test: AbsRel")}
    for data, (key, label) in figures.items():
        path = HERE.parent / "zoo" / f"{data}-{name}" / "metrics.json"
        if path.exists():
            document = json.loads(path.read_text(encoding="utf-8"))
            value = document["figures"][key]
            options = document["label"].removeprefix(name).strip()
            yield (
                f"{label}, {document['bytes'] / 1e6:.2f} MB{f' {options}' if options else ''}",
                f"{100 * value:.1f} %" if key == "miou" else f"{value:.3f}",
            )


PAGES = {"cli.md": command_line, "catalogue.md": catalogue}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), encoding="utf-8")

"""`binarize models`: the names that can be given as MODEL."""

from __future__ import annotations

import fnmatch

import click

from binarize.cli.examples import examples
from binarize.cli.output import print_json
from binarize.cli.speed import importing
from binarize.errors import ConfigError, near_names


@click.command(
    epilog=examples("""
        # all sizes of ConvNeXt
        binarize models 'convnext*'
        # names that hold `upernet`
        binarize models upernet
    """)
)
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def models(pattern: str, as_json: bool) -> None:
    """List the models of timm and the networks of the toolkit.

    PATTERN is part of a name, in capitals or not, or has wildcards: 'convnext*tiny*'.
    """
    with importing():
        import timm

        from binarize import networks
        from binarize.networks.catalog import takes_encoder

    own = [f"{name}:ENCODER" if takes_encoder(name) else name for name in networks.names()]
    known = own + timm.list_models()
    wanted = (pattern if any(c in pattern for c in "*?[") else f"*{pattern}*").lower()
    found = [name for name in known if fnmatch.fnmatchcase(name.lower(), wanted)]
    if not found:
        near = near_names(pattern.replace("*", ""), known)
        hint = f"did you mean {' or '.join(near)}?" if near else "try a shorter part of the name."
        raise ConfigError(f"no model matches {pattern!r}: {hint}")
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(found))

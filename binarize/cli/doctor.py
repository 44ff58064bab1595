"""`binarize doctor`: which kernels the packed runtime has on this machine."""

from __future__ import annotations

import click

from binarize.cli.examples import examples
from binarize.cli.output import print_json, tell
from binarize.cli.speed import importing


@click.command(
    epilog=examples("""
        # why is a network slow here?
        binarize doctor
    """)
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(as_json: bool) -> None:
    """Print which kernels run here, and how they were built."""
    with importing():
        import torch

        from binarize.native.library import features

    found = features()
    facts = {
        "kernels": found.isa if found.available else f"torch: {found.why_not}",
        "available": " ".join(("torch", *found.isas)),
        "processor": " ".join(found.cpu) or "-",
        "library": str(found.path or "-"),
        **{f"build {name}": value for name, value in found.build.items()},
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    }
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        tell(f"{name:15} {value}")

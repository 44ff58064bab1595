"""The command line: one file per command; heavy imports only inside the commands."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

from binarize import __version__
from binarize.cli.bench import bench
from binarize.cli.calibrate import calibrate
from binarize.cli.compare import compare
from binarize.cli.convert import convert
from binarize.cli.coverage import coverage
from binarize.cli.data import data
from binarize.cli.deploy import deploy
from binarize.cli.doctor import doctor
from binarize.cli.evaluate import evaluate
from binarize.cli.examples import examples
from binarize.cli.export import export
from binarize.cli.init import init
from binarize.cli.inspect import inspect
from binarize.cli.methods import methods
from binarize.cli.models import models
from binarize.cli.predict import predict
from binarize.cli.recipes import recipes
from binarize.cli.report import report
from binarize.cli.summary import summary
from binarize.cli.tables import tables
from binarize.cli.train import train
from binarize.cli.verify import verify
from binarize.cli.zoo import zoo
from binarize.errors import BinarizeError, BinarizeWarning, ConfigError, StoppedError
from binarize.tables import write_what_can_be

FAILED = 2
INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=examples("""
        # what would become binary in a network?
        binarize convert resnet18 --dry-run
        # train one, without any download
        binarize train shapes/tiny-bidense
        # write it with one bit per weight
        binarize deploy runs/tiny-bidense --out packed.safetensors
    """),
)
@click.version_option(__version__, prog_name="binarize", message="%(prog)s %(version)s")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no warnings: results and errors only.")
@click.option("--verbose", "-v", is_flag=True, help="Errors with the traceback, and all Python warnings.")
@click.pass_context
def cli(context: click.Context, quiet: bool, verbose: bool) -> None:
    """Turn a timm or custom PyTorch network into a binary neural network.

    The options below stand in front of the command: `binarize -q train RECIPE`.
    """
    if quiet and verbose:
        raise ConfigError("--quiet or --verbose, not both.")
    context.ensure_object(dict).update(quiet=quiet, verbose=verbose)
    if quiet:
        warnings.simplefilter("ignore")
    elif verbose:
        warnings.simplefilter("always")


_COMMANDS = (
    bench,
    calibrate,
    compare,
    convert,
    coverage,
    data,
    deploy,
    doctor,
    evaluate,
    export,
    init,
    inspect,
    methods,
    models,
    predict,
    recipes,
    report,
    summary,
    tables,
    train,
    verify,
    zoo,
)
for _command in _COMMANDS:
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Errors that the user can correct (`BinarizeError`, wrong usage) give one message on stderr and status 2,
    Ctrl-C status 130, whether a training was saved first or not.
    Any other error is a defect of the toolkit, and shows its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        write_what_can_be(stream)
    chosen: dict[str, bool] = {}
    try:
        with _readable_warnings():
            status = cli.main(args=arguments, prog_name="binarize", standalone_mode=False, obj=chosen)
        sys.stdout.flush()
    except BinarizeError as error:
        if chosen.get("verbose"):
            traceback.print_exc()
        return _fail(str(error), INTERRUPTED if isinstance(error, StoppedError) else FAILED)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        _abandon_stdout()
        return _fail(f"cannot write the output: {error.strerror}.") if error.errno == errno.ENOSPC else 1
    except SystemExit as ended:  # click's, behind a script for shell completion
        status = ended.code
    return status if isinstance(status, int) else 0


@contextlib.contextmanager
def _readable_warnings() -> Iterator[None]:
    """Print the toolkit's own warnings like errors: each once, without the line of code behind it."""
    shown: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", BinarizeWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, BinarizeWarning):
                others(message, category, *where, **more)
            elif str(message) not in shown:
                shown.add(str(message))
                click.echo(f"Warning: {message}", err=True)

        warnings.showwarning = show
        yield


def main() -> None:
    """Entry point of the `binarize` script."""
    end = _End()
    atexit.register(end)  # the first registered is called last: all other handlers run before it
    end.status = run()
    sys.exit(end.status)


class _End:
    """End the process at once: deleting torch's objects one by one would take a second."""

    status = 1  # until a command has finished

    def __call__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(self.status)


def _fail(message: str, status: int = FAILED) -> int:
    click.echo(f"Error: {message}", err=True)
    return status


def _abandon_stdout() -> None:
    """Make the interpreter's own flush at exit succeed: output that could not be written is dropped."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)

"""Reads the command line and hands over to one file a command.

No command's heavy imports happen here: `mdrec prepare` starts without JAX.
"""

import argparse
import sys
from collections.abc import Sequence

from mdrec_jax.cli import (
    ablate,
    baselines,
    bench,
    compare,
    evaluate,
    inspect,
    prepare,
    recommend,
    stream,
    sweep,
    synthetic,
    train,
)
from mdrec_jax.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, InputError, MdrecError
from mdrec_jax.terminal import say

COMMANDS = (prepare, synthetic, baselines, inspect, train, evaluate, compare, recommend, stream, ablate, sweep, bench)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; each command's `run` takes what it parsed."""
    top = argparse.ArgumentParser(
        prog="mdrec", description="Train and evaluate sequential recommenders over many domains."
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the process's exit code (`mdrec_jax.errors`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        args, rest = parser().parse_known_args(given)
        if rest and not getattr(args, "takes_overrides", False):
            parser().error("unrecognized arguments: " + " ".join(rest))
        args.overrides = rest
        return int(args.run(args) or EXIT_OK)
    except MdrecError as error:
        say(f"mdrec: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        say("mdrec: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return EXIT_BAD_INPUT if stop.code not in (0, None) else EXIT_OK
    except BrokenPipeError:
        return EXIT_OK
    except OSError as error:  # a file that may not be read, a disk that is full
        told = InputError(error.strerror or str(error), file=error.filename)
        say(f"mdrec: {told}", file=sys.stderr)
        return told.exit_code

"""Reads the command line and hands over to one file a command.

No command's heavy imports happen here: `mdrec prepare` starts without JAX.
"""

import argparse
import shlex
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
from mdrec_jax.cli.unexpected import tell_unexpected
from mdrec_jax.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, InputError, MdrecError
from mdrec_jax.terminal import say

COMMANDS = (prepare, synthetic, baselines, inspect, train, evaluate, compare, recommend, stream, ablate, sweep, bench)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of all commands, and those of each."""
    top = argparse.ArgumentParser(
        prog="mdrec", description="Train and evaluate sequential recommenders over many domains."
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return top, dict(commands.choices)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the process's exit code (`mdrec_jax.errors`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        args = parse(given)
        return EXIT_OK if args is None else int(args.run(args) or EXIT_OK)
    except (KeyboardInterrupt, SystemExit, BrokenPipeError) as stop:
        return _stopped(stop)
    except (MdrecError, OSError) as error:
        # The system's own: a file that may not be read, a disk that is full.
        told = InputError(error.strerror or str(error), file=error.filename) if isinstance(error, OSError) else error
        say(f"mdrec: {told}", file=sys.stderr)
        return told.exit_code
    except Exception as error:
        return tell_unexpected(error, given)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how Rust underneath Polars fails; no Exception
            raise
        return tell_unexpected(error, given)


def _stopped(stop: BaseException) -> int:
    if isinstance(stop, KeyboardInterrupt):
        say("mdrec: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_BAD_INPUT if isinstance(stop, SystemExit) and stop.code not in (0, None) else EXIT_OK


def parse(given: list[str]) -> argparse.Namespace | None:
    """The arguments of a command, its `run` among them; None where it only had to tell of itself."""
    top, commands = _parsers()
    command = commands.get(given[0]) if given else None
    fields, overrides, words = [], [], given
    if command is not None and command.get_default("takes_overrides"):
        if {"-h", "--help"} & set(given):
            return _help(command, given[1:])
        from mdrec_jax.cli.fields import split_off_fields

        own = set(command._option_string_actions)
        rest, fields, overrides = split_off_fields(given[1:], own)
        words = [given[0], *rest]
    args = top.parse_args(words)
    args.fields, args.overrides, args.command_line = fields, overrides, shlex.join(["mdrec", *given])
    return args


def _help(command: argparse.ArgumentParser, words: list[str]) -> None:
    """A command's options and, where the words name a preset, its fields with their values and what they are."""
    from mdrec_jax.cli.fields import describe_fields
    from mdrec_jax.config import load_preset, preset_names

    command.print_help()
    preset = next((word for word in words if word in preset_names() or word.endswith(".py")), None)
    if preset is None:
        say(f"\nfields of the configuration: {command.prog} PRESET --help\npresets: {' '.join(preset_names())}")
        return
    say(f"\nfields of the configuration, as in {preset}:")
    say("\n".join(describe_fields(load_preset(preset, smoke="--smoke" in words))))

"""Runs the data commands as the command line does, without loading the commands that need JAX."""

import argparse
import sys

from mdrec_jax.cli import inspect, prepare
from mdrec_jax.errors import MdrecError


def mdrec(*arguments: str) -> int:
    """The exit code of `mdrec ARGUMENTS...`."""
    parser = argparse.ArgumentParser(prog="mdrec")
    commands = parser.add_subparsers(required=True)
    prepare.add_parser(commands)
    inspect.add_parser(commands)
    try:
        args = parser.parse_args(arguments)
        return args.run(args)
    except MdrecError as error:
        print(f"mdrec: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:
        return int(stop.code or 0)

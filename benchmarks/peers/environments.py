"""One environment a peer: `python benchmarks/peers/environments.py --env-dir DIR [PEER ...]`.

Each is a virtual environment of Python 3.11 in DIR/PEER with exact pins of what decides the numbers. The torch pin
takes a build for CPUs where the package index offers one. A finished environment is left alone.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PINS = {
    "rectools": ["torch==2.13.0", "rectools[torch]==0.19.0"],
    "replay": ["torch==2.13.0", "replay-rec[torch]==0.22.0"],
    "keras_rs": ["keras-rs==0.4.0", "keras-hub==0.32.0", "keras==3.15.1", "jax==0.10.2"],
}
PYTHON = "python3.11"
DONE = "installed.txt"


def interpreter(env_dir: Path, peer: str) -> Path:
    """The Python of a peer's environment."""
    return env_dir / peer / "bin" / "python"


def make(env_dir: Path, peer: str, python: str = PYTHON) -> Path:
    """Makes the environment of `peer` where it is not there yet; returns its Python."""
    place = env_dir / peer
    if not (place / DONE).is_file():
        subprocess.run([python, "-m", "venv", "--clear", str(place)], check=True)
        installer = [str(interpreter(env_dir, peer)), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*installer, "install", "--quiet", *PINS[peer]], check=True)
        frozen = subprocess.run([*installer, "freeze"], check=True, capture_output=True, text=True).stdout
        (place / DONE).write_text(frozen, encoding="utf-8")
    return interpreter(env_dir, peer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--python", default=PYTHON, help="a Python 3.11")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=" ".join(PINS))
    args = parser.parse_args()
    if unknown := set(args.peers) - set(PINS):
        parser.error(f"unknown peer {min(unknown)}: one of {' '.join(PINS)}")
    for peer in args.peers or PINS:
        print(peer, make(args.env_dir, peer, args.python), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Which form of an operation runs.

Every operation has one public function and several forms of it, by name: `reference` (the formula), `xla` (bounded
memory, any platform), and on some platforms a hand-written kernel. A form that cannot run here, or not on these
shapes, raises `NotImplementedError` with the reason.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax

type Implementation = str | Sequence[str] | None
"""None: the best form for the platform. A name: that form or an error. A sequence: the first of them that can run."""

PREFERRED: Mapping[str, Sequence[str]] = {
    "tpu": ("pallas_tpu", "xla"),
    "gpu": ("cudnn", "xla"),
    "cpu": ("xla",),
}

_compiled_for = jax.make_user_context()
"""The platform named by `compiling_for`; JAX's caches take it into account."""


def compiling_for(platform: str) -> AbstractContextManager[None]:
    """Inside, operations are traced for `platform`, though this process may run on another.

    For compiling a program ahead of time, as with `jax.experimental.topologies`.
    """
    return _compiled_for(platform)


def platform() -> str:
    """The platform that operations are traced for: "cpu", "gpu" or "tpu"."""
    return _compiled_for.value or jax.default_backend()


def run[**P, R](
    operation: str,
    forms: Mapping[str, Callable[P, R]],
    implementation: Implementation,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Call the form of `operation` that `implementation` asks for.

    Args:
        operation: its name, for messages.
        forms: name -> function; all take the same arguments.
        implementation: see `Implementation`.

    Raises:
        ValueError: a name that `forms` does not have.
        NotImplementedError: the one form that was named cannot run.
        ExceptionGroup: none of several can; holds the reason of each.
    """
    names = _names(operation, forms, implementation)
    if len(names) == 1:
        return forms[names[0]](*args, **kwargs)
    reasons: list[Exception] = []
    for name in names:
        try:
            return forms[name](*args, **kwargs)
        except NotImplementedError as reason:
            reasons.append(reason)
            if implementation is not None:
                warnings.warn(f"{operation}: {name} cannot run ({reason})", RuntimeWarning, stacklevel=3)
    raise ExceptionGroup(f"{operation}: none of {', '.join(names)} can run", reasons)


def _names(operation: str, forms: Mapping[str, Any], implementation: Implementation) -> list[str]:
    if implementation is None:
        preferred = PREFERRED.get(platform(), ("xla",))
        return [name for name in preferred if name in forms]
    names = [implementation] if isinstance(implementation, str) else list(implementation)
    unknown = [name for name in names if name not in forms]
    if unknown or not names:
        raise ValueError(f"{operation} has the implementations {sorted(forms)}, found {implementation!r}")
    return names

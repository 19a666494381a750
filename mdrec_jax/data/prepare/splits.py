"""Which events are for training, which are the targets of validation and test."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Bool, Int8, Int16, Int64

from mdrec_jax.errors import InputError

TRAIN, VALIDATION, TEST, CONTEXT = 0, 1, 2, 3
RULES = "loo, loo-mixed, time:T1,T2 or given"
SHORTEST = 3
"""Leaving one out needs an event for each of training, validation and test."""


@dataclass(frozen=True)
class Split:
    """A split rule. With rule "time" events from `validation_from` (seconds since the epoch) are validation targets,
    from `test_from` test targets."""

    rule: str
    validation_from: int = 0
    test_from: int = 0

    def to_json(self) -> dict[str, Any]:
        times = {"validation_from": self.validation_from, "test_from": self.test_from} if self.rule == "time" else {}
        return {"rule": self.rule, **times}


def parse_split(text: str) -> Split:
    """Reads loo | loo-mixed | given | time:T1,T2, each T in seconds since the epoch or as an ISO date (UTC).

    Raises:
        InputError: none of these, or T1 not before T2.
    """
    if text in ("loo", "loo-mixed", "given"):
        return Split(text)
    if not text.startswith("time:") or text.count(",") != 1:
        raise InputError("unknown split", column="split", found=text, expected=RULES)
    first, second = (_parse_time(part) for part in text.removeprefix("time:").split(","))
    if not first < second:
        raise InputError(
            "the times of the split are in the wrong order", column="split", found=text, expected="T1 < T2"
        )
    return Split("time", first, second)


def _parse_time(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        expected = "seconds since the epoch or a date such as 2014-07-23"
        raise InputError("unparsable time in the split", column="split", found=text, expected=expected) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def assign_roles(
    split: Split,
    offsets: Int64[np.ndarray, " S+1"],
    domain: Int16[np.ndarray, " N"],
    may_be_target: Bool[np.ndarray, " N"],
    time: Int64[np.ndarray, " N"] | None,
    given: Int8[np.ndarray, " N"] | None,
) -> Int8[np.ndarray, " N"]:
    """The role of every event of a sorted log.

    Args:
        split: "loo" holds out, for a sequence and domain, the last target as test and the one before as validation
            (fewer than three targets: all train), so what the user did later in other domains is trained on;
            "loo-mixed" the last two of the whole sequence, behind which nothing is trained on; "time" by the clock;
            "given" takes the source's.
        offsets: where sequences start.
        domain: of each event.
        may_be_target: False for events that are only ever read.
        time: seconds since the epoch, or None.
        given: the source's own roles, or None.

    Raises:
        InputError: the rule needs times or roles that the source does not have, or one of the parts is empty.
    """
    if split.rule == "given":
        if given is None:
            raise InputError(
                "the source gives no split", column="split", found="given", expected="loo, loo-mixed, time"
            )
        role = given.astype(np.int8)
    elif split.rule == "time":
        if time is None:
            raise InputError(
                "a split by time needs times", column="split", found="no times", expected="loo or loo-mixed"
            )
        role = np.full(len(time), TRAIN, np.int8)
        role[time >= split.validation_from] = VALIDATION
        role[time >= split.test_from] = TEST
    else:
        role = _leave_one_out(offsets, domain if split.rule == "loo" else np.zeros_like(domain), may_be_target)
    role = np.where(may_be_target, role, np.int8(CONTEXT)).astype(np.int8)
    refuse_empty(split, role)
    return role


def _leave_one_out(
    offsets: Int64[np.ndarray, " S+1"], domain: Int16[np.ndarray, " N"], may_be_target: Bool[np.ndarray, " N"]
) -> Int8[np.ndarray, " N"]:
    role = np.full(len(domain), TRAIN, np.int8)
    where = np.flatnonzero(may_be_target)
    sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[where]
    group = sequence * (int(domain.max(initial=0)) + 1) + domain[where]
    if domain.any():  # else the groups are the sequences, and they are sorted already
        by_group = np.argsort(group, kind="stable")
        where, group = where[by_group], group[by_group]
    ends = np.flatnonzero(np.append(group[1:] != group[:-1], True))
    long_enough = np.diff(ends, prepend=-1) >= SHORTEST
    role[where[ends[long_enough]]] = TEST
    role[where[ends[long_enough] - 1]] = VALIDATION
    return role


def refuse_empty(split: Split, role: Int8[np.ndarray, " N"]) -> None:
    """
    Raises:
        InputError: no event is a target of one of the parts.
    """
    for part, name in ((TEST, "test"), (TRAIN, "train"), (VALIDATION, "validation")):
        if split.rule == "given" and part == VALIDATION:
            continue  # a source may have none
        if not (role == part).any():
            hint = "no sequence has three targets" if split.rule.startswith("loo") else "look at the split's times"
            raise InputError(
                f"the split leaves no {name} events",
                column="split",
                found=f"0 {name} events of {len(role)}",
                expected="at least one",
                hint=None if split.rule == "given" else hint,
            )

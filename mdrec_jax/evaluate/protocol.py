"""An evaluation protocol as data: which targets are ranked, among which items, and how a rank is made.

Two figures may be compared when their protocols are equal, and only then; every result carries its protocol.

**Ties.** A target that ties with others is ranked in their middle: rank = 1 + higher + half of the ties. That is the
mean rank over random orders of the ties, not the mean of a metric over them: a scorer that gives every item the same
score ranks each target at (items + 1) / 2 and has HR@10 0, where a random order of 1,000 items has .0100. Among a few
ties the two hardly differ; a model whose scores tie by the hundred has to break its ties itself.

**Draws.** A sampled figure hangs on which items were drawn: one draw may be the best of thirty for one model and the
worst for another. Test figures are means of `TEST_DRAWS` draws, with their standard deviation beside them; validation,
which only compares a run with itself, keeps one draw, the same at every look.

**Validation knows nothing of test.** A validation query never leaves an item out because of a test event: with
`exclude` "sequence" its negatives leave out the items of the sequence's other events alone. Negatives that avoid a
user's test items would tell which items those are.
"""

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from mdrec_jax.errors import InputError

type Split = Literal["validation", "test"]
type Candidates = Literal["full", "uniform", "fixed"]
type Exclude = Literal["target", "history", "sequence"]
type Universe = Literal["target_domain", "all"]
type Seen = Literal["none", "train", "history"]
type Ties = Literal["half", "first", "last"]

TEST_DRAWS = 30
"""Draws of `uniformN` at test."""


@dataclass(frozen=True)
class Protocol:
    """How a query's target is ranked.

    Args:
        name: what the protocol is called on a command line: `full`, `full-with-seen`, `uniform99` (one draw),
            `uniform999x30`, `fixed:NAME`.
        split: which targets are ranked. A test query reads the training and validation events before it.
        candidates: the target competes with `full` = every item of the universe; `uniform` = items drawn uniformly;
            `fixed` = the items that a file lists for it.
        negatives: items drawn for a query (`uniform`).
        draws: how often they are drawn; metrics are means over the draws (`uniform`, see above).
        replacement: whether a draw may return one item twice (`uniform`).
        exclude: what is never drawn: the query's `target`, also the items of its visible `history`, or of its whole
            `sequence`, later events included, but for test events at validation (`uniform`).
        seed: of the draws. Draw r of query q is a function of (seed, r, q) alone.
        file: the list's name in the data set's `candidates/`, or a path (`fixed`).
        universe: the items of the target's domain, or of all domains.
        seen: which items leave a `full` ranking: those of the training events before the target, or of its whole
            visible history. The target itself never leaves.
        ties: rank = 1 + items scored higher + half of / none of / all of the items scored equal (see above).
        query_time_visible: whether the model was told the time of the event it predicts.
    """

    name: str = "full"
    split: Split = "test"
    candidates: Candidates = "full"
    negatives: int = 0
    draws: int = 1
    replacement: bool = False
    exclude: Exclude = "sequence"
    seed: int = 0
    file: str | None = None
    universe: Universe = "target_domain"
    seen: Seen = "history"
    ties: Ties = "half"
    query_time_visible: bool = False

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind.__value__):
                _refuse(name, getattr(self, name), f"one of {', '.join(get_args(kind.__value__))}")
        if self.candidates == "uniform" and self.negatives < 1:
            _refuse("negatives", self.negatives, "at least 1")
        if self.draws < 1:
            _refuse("draws", self.draws, "at least 1")
        if self.seed < 0:
            _refuse("seed", self.seed, "0 or more")
        if self.candidates == "fixed" and not self.file:
            _refuse("file", self.file, "a file of candidates")

    @property
    def sampled(self) -> bool:
        """Whether a target competes with a few items only. Such figures are never comparable with full ranking."""
        return self.candidates != "full"

    def to_json(self) -> dict[str, Any]:
        """The fields by name, ready for `json.dump`."""
        return asdict(self)


_CHOICES: dict[str, Any] = {
    "split": Split,
    "candidates": Candidates,
    "exclude": Exclude,
    "universe": Universe,
    "seen": Seen,
    "ties": Ties,
}

SOURCE_RULES: dict[str, dict[str, dict[str, Any]]] = {
    # FedDCSR: the target and 999 items drawn with replacement, items of the history among them.
    "fkcb": {"uniform": {"replacement": True, "exclude": "target"}},
    # AutoCDSR draws from its whole vocabulary.
    "kuairand": {"uniform": {"universe": "all", "exclude": "target", "replacement": True}},
    # DiffMM and its predecessors hide a user's training items alone.
    "tiktok": {"full": {"seen": "train"}},
}
"""What the published tables of a source do otherwise, by kind of candidates: merged over the defaults."""


def _refuse(field: str, found: object, expected: str) -> None:
    raise InputError("an evaluation protocol cannot have this", column=field, found=found, expected=expected)


def parse_protocol(text: str, *, source: str | None = None, split: Split = "test", seed: int = 0) -> Protocol:
    """The protocol that a command line names.

    Args:
        text: `full`; `full-with-seen`, where what the user met before competes too, as it must where people repeat
            themselves; `uniformN` for N drawn items, at validation one draw, at test the mean of `TEST_DRAWS`;
            `uniformNxM` for the mean of M draws, whatever the split; `fixed:FILE`.
        source: the data set's source, whose published tables may follow rules of their own (`SOURCE_RULES`).
        split: which targets are ranked.
        seed: of the draws.

    Raises:
        InputError: a name of another form.
    """
    if text == "full-with-seen":
        return Protocol(name=text, split=split, seed=seed, seen="none")
    if text == "full":
        protocol = Protocol(name=text, split=split, seed=seed)
    elif match := re.fullmatch(r"uniform([1-9]\d{0,8})(?:x([1-9]\d{0,3}))?", text):
        negatives, draws = int(match[1]), int(match[2] or (TEST_DRAWS if split == "test" else 1))
        name = f"uniform{negatives}" + (f"x{draws}" if draws > 1 else "")
        protocol = Protocol(
            name=name, split=split, candidates="uniform", negatives=negatives, draws=draws, seen="none", seed=seed
        )
    elif text.startswith("fixed:") and text != "fixed:":
        file = text.removeprefix("fixed:")
        protocol = Protocol(name=text, split=split, candidates="fixed", file=file, seen="none", seed=seed)
    else:
        raise InputError(
            "unknown protocol",
            found=text,
            expected="full, full-with-seen, uniformN, uniformNxM (mean of M draws), or fixed:FILE",
            hint="for example uniform99, uniform999x1, fixed:test",
        )
    return replace(protocol, **SOURCE_RULES.get(source or "", {}).get(protocol.candidates, {}))


def protocol_from_json(values: dict[str, Any], *, file: str | None = None) -> Protocol:
    """The protocol that `Protocol.to_json` wrote.

    Raises:
        InputError: a field that does not exist, or a value out of its range.
    """
    known = {field.name for field in fields(Protocol)}
    if unknown := sorted(set(values) - known):
        raise InputError("unknown field of a protocol", file=file, column=unknown[0], expected=", ".join(sorted(known)))
    return Protocol(**values)


def describe(protocol: Protocol) -> str:
    """One line for people: what the target competed with."""
    among = "the items of its domain" if protocol.universe == "target_domain" else "all items"
    if protocol.candidates == "full":
        seen = {"none": "nothing left out", "train": "training items left out", "history": "seen items left out"}
        text = f"full ranking among {among}, {seen[protocol.seen]}"
    elif protocol.candidates == "uniform":
        how = "with" if protocol.replacement else "without"
        never = {"target": "the target", "history": "seen items", "sequence": "items of the whole sequence"}
        text = f"SAMPLED: {protocol.negatives} of {among}, drawn {how} replacement, never {never[protocol.exclude]}"
        text += f", seed {protocol.seed}" + (f", mean of {protocol.draws} draws" if protocol.draws > 1 else "")
    else:
        text = f"SAMPLED: the candidates of file '{protocol.file}'"
    time = ", the query's time visible" if protocol.query_time_visible else ""
    return f"{protocol.split}, {text}{time}"

"""The configuration of a run: nothing but the configurations of its parts, put together."""

import dataclasses
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from mdrec_jax import codec
from mdrec_jax.data.batching.batches import BatchingConfig
from mdrec_jax.errors import ConfigError, InputError
from mdrec_jax.evaluate.cooccurrence import CooccurrenceConfig
from mdrec_jax.files import read_object
from mdrec_jax.models.api import ModelConfig
from mdrec_jax.models.config import RecommenderConfig
from mdrec_jax.objectives.combine import ObjectivesConfig
from mdrec_jax.objectives.next_item import NextItemConfig
from mdrec_jax.optim.optimiser import OptimConfig
from mdrec_jax.parallel.mesh import MeshConfig
from mdrec_jax.train.config import LoggingConfig, PrecisionConfig, TrainConfig

NOT_IDENTITY = ("hardware", "logging", "train.epochs", "train.steps", "train.patience")
"""Fields that do not change what a step learns: they are left out of the hash, and a resumed run may change them."""

MAX_SEED = (1 << 32) - 1
"""Keys of random numbers hold 32 bits of a seed."""


@dataclass(frozen=True)
class RunConfig:
    """One run.

    Args:
        batching: how sequences become packed batches.
        model: which model, and its sizes.
        loss: the next-item objective.
        objectives: what is learned besides it.
        optim: optimisers of the dense parameters and of the tables, and the schedule.
        cooccurrence: the bonus that items get for co-occurrence, wherever the model scores, validation included.
        train: how long, and how the best checkpoint is chosen.
        precision: the type that activations are computed in.
        hardware: the devices.
        logging: what is written down, and how often.
        seed: of initial values, order of data, negatives and dropout.
    """

    batching: BatchingConfig = field(default_factory=BatchingConfig)
    model: ModelConfig = field(default_factory=RecommenderConfig)
    loss: NextItemConfig = field(default_factory=NextItemConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    cooccurrence: CooccurrenceConfig = field(default_factory=CooccurrenceConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    hardware: MeshConfig = field(default_factory=MeshConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        codec.check_finite(self)
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError("out of range", column="seed", found=self.seed, expected=f"0 to {MAX_SEED}")

    def to_plain(self) -> dict[str, Any]:
        return codec.to_plain(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "RunConfig":
        return codec.from_plain(cls, plain)

    def hash(self) -> str:
        """16 hex digits of everything but hardware, logging and the run's length."""
        return codec.digest(self.to_plain(), NOT_IDENTITY)


def check_lengths(config: RunConfig) -> None:
    """Refuses a window of attention that is longer than any sequence.

    Raises:
        ConfigError: naming the field.
    """
    window, longest = getattr(config.model, "attention_window", 1), config.batching.max_length
    if window > longest:
        raise ConfigError(
            "longer than any sequence",
            column="model.attention_window",
            found=window,
            expected=f"at most batching.max_length = {longest}",
        )


def replace(config: RunConfig, **parts: dict[str, Any] | Any) -> RunConfig:
    """`config` with fields replaced, at any depth: `replace(c, model={"loop": {"max_steps": 3}}, seed=1)`."""
    return _changed(config, parts)


def _changed(value: Any, change: Any) -> Any:
    if not (dataclasses.is_dataclass(value) and isinstance(change, dict)):
        return change
    new = {name: _changed(getattr(value, name), to) for name, to in change.items()}
    return dataclasses.replace(value, **new)  # type: ignore[type-var]


def load_preset(name: str, *, smoke: bool = False) -> RunConfig:
    """The run of a preset of this package, or of a Python file with a function `config() -> RunConfig`.

    A preset is code: it runs when it is named here and nowhere else.

    Raises:
        ConfigError: when there is no such preset, or the file has no such function.
    """
    module = _load_file(Path(name)) if name.endswith(".py") else _load_shipped(name)
    wanted = "smoke" if smoke else "config"
    function: Callable[[], Any] | None = getattr(module, wanted, None)
    if function is None:
        raise ConfigError(f"the preset has no function '{wanted}'", file=name, expected=f"def {wanted}() -> RunConfig")
    with _told_of_the_file(Path(str(module.__file__))):
        run = function()
    if not isinstance(run, RunConfig):
        raise ConfigError(f"'{wanted}' returned something else", file=name, found=type(run), expected="a RunConfig")
    return run


def preset_folder() -> Path:
    """Where the presets are: inside the installed package, or at the top of a checkout."""
    shipped = Path(__file__).parent / "configs"
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / "configs"


def preset_names() -> list[str]:
    return sorted(p.stem for p in preset_folder().glob("*.py") if not p.stem.startswith("_"))


def _load_shipped(name: str) -> ModuleType:
    if name not in preset_names():
        raise ConfigError(
            "no such preset", found=name, expected=", ".join(preset_names()) + ", or the path of a .py file"
        )
    return _load_file(preset_folder() / f"{name}.py")


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError("no such file", file=path, expected="a Python file with a function config() -> RunConfig")
    spec = importlib.util.spec_from_file_location(f"mdrec_preset_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _told_of_the_file(path):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _told_of_the_file(path: Path) -> Iterator[None]:
    """What a preset's code raises, as an error that names its file and line."""
    try:
        yield
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        row = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
        if isinstance(error, ConfigError):
            raise ConfigError(
                error.problem, file=path, row=row, column=error.column, found=error.found, expected=error.expected
            ) from None
        found = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        raise ConfigError("the preset raised an exception", file=path, row=row, found=found) from error


@contextmanager
def field_names(config: RunConfig) -> Iterator[None]:
    """Errors about fields inside name them as `config` has them: `model.mixers.kinds`, where a part that does not know
    what it is part of says `model.kinds`."""
    try:
        yield
    except ConfigError as error:
        names = codec.flatten(config.to_plain())
        group, _, last = (error.column or "").partition(".")
        named = [name for name in names if name.startswith(f"{group}.") and name.endswith(f".{last}")]
        if not last or error.column in names or len(named) != 1:
            raise
        raise ConfigError(
            error.problem,
            file=error.file,
            row=error.row,
            column=named[0],
            found=error.found,
            expected=error.expected,
            hint=error.hint,
        ) from None


def read_config(path: Path) -> RunConfig:
    """The configuration in a run folder's `config.json`.

    Raises:
        InputError: when the file is missing, damaged, or no configuration of this version.
    """
    if not path.is_file():
        raise InputError("no run here", file=path.parent, expected=f"a folder with {path.name}")
    try:
        return RunConfig.from_plain(read_object(path, "config", "dataset", "versions")["config"])
    except ConfigError as error:
        raise ConfigError(
            error.problem, file=path, column=error.column, found=error.found, expected=error.expected
        ) from None

"""Real shapes of `grouped_ffn`, for tests, compile gates and benchmarks alike."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """T rows of width d, and (experts, hidden width) of each class."""

    name: str
    T: int
    d: int
    classes: tuple[tuple[int, int], ...]
    gated: bool = True

    @property
    def experts(self) -> int:
        return sum(number for number, _ in self.classes)

    @property
    def weights_of_a_row(self) -> float:
        """Products that a row of an average expert takes part in."""
        widths = sum(number * width for number, width in self.classes) / self.experts
        return (3 if self.gated else 2) * self.d * widths


SHAPES = (
    Shape("small", T=8_192, d=64, classes=((8, 128), (8, 256))),
    Shape("sixteen", T=8_192, d=128, classes=((16, 512),), gated=False),
    Shape("long", T=32_768, d=128, classes=((8, 256), (8, 512))),
    Shape("pod", T=131_072, d=256, classes=((8, 512), (8, 1024))),
    Shape("wide", T=32_768, d=1_024, classes=((16, 4_096),)),
)
"""Rows are tokens times the experts that each goes to. "wide" is compiled, not run."""

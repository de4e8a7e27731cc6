"""Patch tokens in place of one pooled vector: what ``NAME#tokens`` and ``NAME#tokens=N`` store."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from supportset.store.errors import UsageError


@dataclass(frozen=True)
class TokenGrid:
    """The tokens of one step: row by row, of windows one time slice after the other.

    Attributes
    ----------
    slices : int
        Of time; 1 for a frame.
    rows, columns : int
        Of patches.
    side : int
        Each slice is averaged to ``side`` x ``side`` tokens; 0: not averaged.
    """

    slices: int
    rows: int
    columns: int
    side: int = 0

    @classmethod
    def make(cls, name: str, asked: int, slices: int, rows: int, columns: int) -> TokenGrid:
        """Read the N of ``#tokens=N``; 0 is ``#tokens``.

        Raises
        ------
        UsageError
            If N is no square, or larger than the model's own grid.
        """
        side = math.isqrt(asked)
        if side**2 != asked or side > min(rows, columns):
            most = min(rows, columns)
            raise UsageError(
                f"backbone {name}: tokens={asked} should be a square number up to {most * most}, since the tokens of "
                f"a frame are averaged to a square; the model gives {rows} x {columns}: #tokens alone keeps them all"
            )
        return cls(slices, rows, columns, side)

    @property
    def vectors(self) -> int:
        """Tokens of a step."""
        return self.slices * (self.side**2 or self.rows * self.columns)

    @property
    def words(self) -> str:
        """The pooling, for the card."""
        grid = f"{self.rows} x {self.columns} patches"
        times = f" of each of {self.slices} time slices" if self.slices > 1 else ""
        if self.side:
            return f"{grid}{times} averaged to {self.side} x {self.side}, row by row"
        return f"none: {grid}{times}, row by row"

    def pool(self, tokens: Tensor) -> Tensor:
        """Map the model's (N, slices * rows * columns, dim) to (N, vectors, dim)."""
        if not self.side:
            return tokens
        grid = tokens.reshape(len(tokens) * self.slices, self.rows, self.columns, -1).movedim(-1, 1)
        return adaptive_avg_pool2d(grid, self.side).flatten(2).mT.reshape(len(tokens), self.vectors, -1)


def suffix(asked: int) -> str:
    """The end of the backbone's name for ``#tokens`` (0) or ``#tokens=N``."""
    return f"#tokens={asked}" if asked else "#tokens"

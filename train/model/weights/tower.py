"""The text tower of an encoder pair as a part of a model.

The one place where training reaches into extraction, and only where ``text.encoder = "tower"`` asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from supportset.store.errors import UsageError
from supportset.store.format.card import FeatureCard

if TYPE_CHECKING:
    from supportset.extract.text.encoders.base import TextTower


class Tower(nn.Module):
    """A text tower that can be trained: tokens in, the pair's text embedding out.

    Parameters
    ----------
    tower : TextTower
        Its network becomes this module's, and is changed in place by training.
    """

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.network = tower.model
        self._tower = tower
        self.dim, self.pad_id = tower.dim, tower.pad_id

    @property
    def logit_scale(self) -> float | None:
        """What the pair multiplies cosines with: one over its temperature."""
        return self._tower.logit_scale

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Tokens of texts, cut at the tower's own length; none for a text without a token."""
        return [each.ids for each in self._tower.tokenize(texts)]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map (N, L) long ids and their bool mask to (N, dim), not normalised; zero for a text without a token."""
        return self._tower.encode(ids, mask).masked_fill(ids[:, :1] == self.pad_id, 0.0)

    def save(self, folder: Path) -> None:
        """Write the configuration and the tokenizer: all that `restore_tower` needs but the weights."""
        from supportset.extract.text.encoders.tower_folder import save_tower

        save_tower(self._tower, folder)


def load_pair_tower(visual: FeatureCard, given: str) -> Tower:
    """Load the text tower that belongs to a visual feature set, in float32.

    Parameters
    ----------
    visual : FeatureCard
        Of the feature set.
    given : str
        The pair's name or path on this machine; empty: as the card records it.

    Raises
    ------
    UsageError
        The features' encoder has no text tower, or it can't be found or read, or has other weights.
    """
    from supportset.extract.text.encoders.towers import load_tower_of

    try:
        return Tower(load_tower_of(visual, given or None))
    except UsageError as error:
        reason = str(error).replace("--encoder", "text.name")
        reason = reason.replace("train a run on them", "set another text.encoder, as configs/folder-offline.toml does")
        raise UsageError(f"text.encoder = 'tower': {reason}") from None


def restore_tower(folder: Path) -> Tower:
    """Rebuild what `Tower.save` wrote, with weights yet to be loaded."""
    from supportset.extract.text.encoders.tower_folder import read_tower_folder

    return Tower(read_tower_folder(folder))

"""No captioning loss: the contrastive loss alone."""

from __future__ import annotations

from supportset.train.model.support import Captioning

CAPTIONING = Captioning("no captioning loss", None, own=False, others=False)

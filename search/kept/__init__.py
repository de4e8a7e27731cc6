"""What is kept of clips from one search to the next: embeddings, and codes of their parts."""

from __future__ import annotations

from supportset.search.kept.embeddings import clip_embeddings, kept_parts, mean_part

__all__ = ["clip_embeddings", "kept_parts", "mean_part"]

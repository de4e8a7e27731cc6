"""What is kept of clips from one search to the next: embeddings, and codes of their parts."""

from __future__ import annotations

from supportset.search.kept.embeddings import kept_clips, kept_parts, mean_part

__all__ = ["kept_clips", "kept_parts", "mean_part"]

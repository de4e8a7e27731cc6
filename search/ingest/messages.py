"""What the server and the extracting process say to each other. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PATIENCE_SECONDS = 600.0  # a file that ends too early, and was written since, may still be copied
SHARD_SECONDS = 20.0  # what is extracted can be searched after so long, also within a long round

Gone = Literal["auto", "mark"]


@dataclass(frozen=True)
class Order:
    """What is kept, and how; the same for all rounds of a process.

    Attributes
    ----------
    folder : str
        Absolute path of the folder of videos.
    store : str
        Folder or URL of the store.
    name : str
        Name of the dataset.
    encoder : str
        Name of the encoder pair, as ``extract --backbone`` takes it.
    device : str
        As ``extract --device`` takes it.
    """

    folder: str
    store: str
    name: str
    encoder: str
    device: str = "auto"


@dataclass
class Result:
    """What a round did, and what it left.

    Attributes
    ----------
    features : str or None
        Name of the feature set; None where nothing was ever extracted.
    clips, done : int
        Clips of whole files, and how many of them have features or failed.
    left : int
        Files that are still to be done.
    taken : int
        Files that this round took.
    incomplete : list of str
        Files that end before their container does, and are so young that they may still be copied.
    failures : list of dict
        ``file``, ``status`` and ``message`` of clips without all of their features; at most 200.
    failed : int
        Clips without all of their features.
    counts : dict
        Clips by status.
    gone : int
        Clips whose videos are gone.
    message : str
        Why there is nothing to search; empty if there is.
    """

    features: str | None = None
    clips: int = 0
    done: int = 0
    left: int = 0
    taken: int = 0
    incomplete: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    failed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    gone: int = 0
    message: str = ""

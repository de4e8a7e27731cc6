"""Evaluation protocols by name: how many clips and queries each asks for, its captions, and where its list is from.

A dataset's own tables state the same sizes (they come from its reader); this list serves scores of embeddings that
were made elsewhere, and the galleries of other benchmarks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from supportset.evaluate.splits import Split
from supportset.store.errors import UsageError


@dataclass(frozen=True)
class Protocol:
    """A test gallery with a name.

    Attributes
    ----------
    name : str
    dataset : str
        Name of its reader.
    clips : int or None
        The gallery's size; None: any.
    queries : int or None
        Captions that ask; None: it follows from the captions of the clips.
    captions : str
        What a query is.
    source : str
        Where the list of clips and captions is from.
    within : str, optional
        The protocol whose test split holds the gallery; then the clips are read from a list (``--gallery``).
    """

    name: str
    dataset: str
    clips: int | None
    queries: int | None
    captions: str
    source: str
    within: str | None = None


_ONE = "one sentence a clip, from the list"
_EACH = "every caption is a query"
_PARAGRAPH = "a video's sentences in time order, as one paragraph"

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("msrvtt-1ka-9k", "msrvtt", 1000, 1000, _ONE, "MSRVTT_JSFUSION_test.csv (Yu et al., 2018)"),
        Protocol("msrvtt-1ka-7k", "msrvtt", 1000, 1000, _ONE, "MSRVTT_JSFUSION_test.csv (Yu et al., 2018)"),
        Protocol("msrvtt-1ka-9k-clean", "msrvtt", 1000, 1000, _ONE, "MSRVTT_JSFUSION_test.csv (Yu et al., 2018)"),
        Protocol("msrvtt-full", "msrvtt", 2990, 59800, _EACH, "test_videodatainfo.json (Xu et al., 2016)"),
        Protocol("msvd", "msvd", 670, 27763, _EACH, "test_list.txt (Venugopalan et al., 2015)"),
        Protocol("vatex-1500", "vatex", 1500, 15000, _EACH, "the test half of validation (Chen et al., HGR, 2020)"),
        Protocol(
            "vatex-public", "vatex", 6000, 60000, _EACH, "vatex_public_test_english_v1.1.json (Wang et al., 2019)"
        ),
        Protocol("activitynet-val1", "activitynet", 4917, 4917, _PARAGRAPH, "val_1.json (Krishna et al., 2017)"),
        Protocol("activitynet-val2", "activitynet", 4885, 4885, _PARAGRAPH, "val_2.json (Krishna et al., 2017)"),
        Protocol("flickr8k", "flickr8k", 1000, 5000, _EACH, "the official test list (Hodosh et al., 2013)"),
        Protocol("folder", "folder", None, None, _EACH, "your captions file"),
        Protocol("mveb-msrvtt", "msrvtt", 879, None, "as listed", "MVEB (mteb)", "msrvtt-1ka-9k"),
        Protocol("mveb-msvd", "msvd", 660, None, "as listed", "MVEB (mteb)", "msvd"),
        Protocol("mveb-vatex", "vatex", 1000, None, "as listed", "MVEB (mteb)", "vatex-1500"),
        Protocol("mveb-activitynet", "activitynet", 4884, None, _PARAGRAPH, "MVEB (mteb)", "activitynet-val2"),
    )
}


def gallery_of(split: Split, path: str | Path, listed: Collection[str]) -> Split:
    """Cut a split to a list of clips.

    Raises
    ------
    UsageError
        A listed clip is not in the split.
    """
    known = set(split.clip_ids)
    strangers = [clip_id for clip_id in listed if clip_id not in known]
    if strangers:
        raise UsageError(
            f"{path}: {len(strangers):,} of {len(listed):,} listed clips, such as {strangers[0]!r}, are not in split "
            f"{split.name!r}; give a list of its clips"
        )
    return split.of_clips(split.name, set(listed))

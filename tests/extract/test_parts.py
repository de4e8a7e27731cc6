"""``--shard i/n``: parts that are disjoint, complete, the same everywhere, equal, and never share a file."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supportset.extract.work.parts import group_by_file, take_part
from supportset.extract.work.selection import Clip
from supportset.store.errors import UsageError


def clips_of(files: list[int | None]) -> list[Clip]:
    return [Clip(f"c{i}", None if file is None else f"{file}.mp4", None, None) for i, file in enumerate(files)]


@given(st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=1, max_size=60), st.data())
def test_parts_share_all_clips_by_file(files: list[int | None], data: st.DataObject) -> None:
    clips = clips_of(files)
    count = len(group_by_file(clips))
    parts = data.draw(st.integers(1, count))
    shares = [take_part(clips, part, parts) for part in range(1, parts + 1)]
    assert sorted(clip.clip_id for share in shares for clip in share) == sorted(clip.clip_id for clip in clips)
    assert all(shares), "no part is empty while there are files enough"
    for share in shares:
        assert [int(clip.clip_id[1:]) for clip in share] == sorted(int(clip.clip_id[1:]) for clip in share)
    of_file = Counter(path for share in shares for path in {clip.path for clip in share if clip.path})
    assert set(of_file.values()) <= {1}, "the clips of one file are in one part"
    most = max(Counter(files)[file] if file is not None else 1 for file in files)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= most


def test_parts_of_single_clips_are_equal_and_in_turns() -> None:
    shares = [take_part(clips_of(list(range(10))), part, 3) for part in (1, 2, 3)]
    assert [[clip.clip_id for clip in share] for share in shares] == [
        ["c0", "c3", "c6", "c9"],
        ["c1", "c4", "c7"],
        ["c2", "c5", "c8"],
    ]


def test_files_of_many_clips_are_shared_first() -> None:
    files: list[int | None] = [0, 1, 2, 3, *[4] * 4, *[5] * 3, 6]
    first, second = (take_part(clips_of(files), part, 2) for part in (1, 2))
    assert {clip.path for clip in first} == {"4.mp4", "1.mp4", "3.mp4"}
    assert {clip.path for clip in second} == {"5.mp4", "0.mp4", "2.mp4", "6.mp4"}


@pytest.mark.parametrize(
    ("part", "parts", "said"), [(0, 3, "1/3 to 3/3"), (4, 3, "1/3 to 3/3"), (3, 3, "2 files of 4")]
)
def test_parts_that_are_none(part: int, parts: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        take_part(clips_of([0, 0, 1, 1]), part, parts)

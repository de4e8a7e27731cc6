"""Finding the video of a clip: by name, anywhere below a folder, with any extension."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from supportset.extract.readers.contents import kind_of
from supportset.extract.readers.locate import FileTree
from supportset.store.errors import UsageError


def _extensions(words: str) -> frozenset[str]:
    return frozenset(words.split())


VIDEO_EXTENSIONS = _extensions(
    ".264 .265 .3g2 .3gp .asf .avi .divx .dv .f4v .flv .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v .m4v .mjpeg .mjpg "
    ".mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut .obu .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m"
)
ANIMATION_EXTENSIONS = _extensions(".gif .apng")
IMAGE_EXTENSIONS = _extensions(".avif .bmp .heic .heif .j2k .jfif .jp2 .jpeg .jpg .png .ppm .tif .tiff .webp")
# Files beside videos with the same name: features, captions, sound, metadata, incomplete downloads.
OTHER_EXTENSIONS = _extensions(
    ".!qb .!ut .aac .aria2 .ass .crdownload .csv .description .flac .gz .h5 .hdf5 .html .json .jsonl "
    ".log .m4a .md .md5 .mp3 .npy .npz .oga .ogg .opdownload .opus .parquet .part .partial .pickle .pkl .pt .pth "
    ".safetensors .sha1 .sha256 .srt .sub .tar .tmp .tsv .txt .vtt .wav .wma .xml .yaml .yml .ytdl .zip"
)


class NoVideos(UsageError):  # noqa: N818 - named for what it tells
    """A folder without a video or an image."""


def find_videos(root: Path, wanted: Iterable[str]) -> dict[str, str]:
    """Find the videos named ``wanted`` below ``root``: ``{stem: path relative to root}``, absent ones left out."""
    return match_files(FileTree(root, option="--videos"), wanted)[0]


def match_files(tree: FileTree, wanted: Iterable[str], *, images: bool = False) -> tuple[dict[str, str], list[str]]:
    """Match file names without extension (exactly) to the files of a tree.

    Known video extensions come first, then animations, then unknown extensions unless the contents are an image; among
    these the shallower file, then the first by name. Files with other known extensions (``video7.npy``,
    ``video7.json``) never match, nor do images, which would be a video's thumbnail. With ``images``, only images match.

    Parameters
    ----------
    tree : FileTree
        The files to search.
    wanted : iterable of str
        File names without extension.
    images : bool
        Search for images instead of videos.

    Returns
    -------
    found : dict
        ``{stem: path relative to the tree's root}``
    notes : list of str
        One line if names had several files.
    """
    stems = wanted if isinstance(wanted, (set, frozenset, dict)) else set(wanted)
    candidates: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for path in tree.files:  # shallowest first, then by name
        stem = os.path.splitext(path.rpartition("/")[2])[0]
        if stem in stems:
            rank = _rank(tree.root / path, images)
            if rank is not None:
                candidates[stem].append((rank, path))
    found: dict[str, str] = {}
    ambiguous: list[str] = []
    for stem, ranked in candidates.items():
        # A dangling link or a pipe of the right name is not a video: the next candidate may be.
        existing = [path for _, path in sorted(ranked, key=lambda pair: pair[0]) if os.path.isfile(tree.root / path)]
        if existing:
            found[stem] = existing[0]
        if len(existing) > 1:
            ambiguous.append(f"{existing[0]} is taken, {existing[1]} is not")
    notes = []
    if ambiguous:
        count = len(ambiguous)
        notes.append(f"{count} clips have several files of their name below {tree.root} (first: {ambiguous[0]})")
    return found, notes


def _rank(path: Path, images: bool) -> int | None:
    """Preference of a file, lower is better; None if it cannot match. An unknown extension is decided by contents."""
    extension = path.suffix.lower()
    if extension in OTHER_EXTENSIONS:
        return None
    if extension in IMAGE_EXTENSIONS or extension in VIDEO_EXTENSIONS:
        return 0 if images == (extension in IMAGE_EXTENSIONS) else None
    if extension in ANIMATION_EXTENSIONS:
        return None if images else 1
    return 2 if (kind_of(path) == "image") == images else None

"""The values of an index's ``status`` column: how a clip, or a caption, ended.

A clip has features where its row has steps (``length`` above 0). Its status is then ``ok`` or ``damaged``; any other
status says why there are none. An import adds statuses that name what is wrong with an array.
"""

from __future__ import annotations

OK = "ok"
MISSING = "missing"  # no file at the clip's path; every run looks for it again
UNREADABLE = "unreadable"  # not a video or an image, or nothing of it can be decoded
NO_VIDEO = "no_video"  # a media file without a video stream (audio, subtitles)
TOO_SHORT = "too_short"  # no frame between the clip's start and end
DAMAGED = "damaged"  # frames are lost: a cut or corrupt file; with features where the run keeps those of damaged clips
OVERFLOW = "overflow"  # a feature value does not fit the stored dtype
TIMEOUT = "timeout"  # decoding made no progress for too long, or took too long for the size of its file
CRASHED = "crashed"  # the decoder ended its process
OUT_OF_MEMORY = "out_of_memory"
EMPTY = "empty"  # a caption without a token
ERROR = "error"  # anything else, with the exception's text

WITH_FEATURES = (OK, DAMAGED)  # the only statuses of clips that have features

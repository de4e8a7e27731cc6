"""The identity of a tokenizer: one hash of what it does, independent of the files it was read from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import xxhash

# Case, accents and their forms, blanks, punctuation, numbers, scripts, a rare word, special tokens as text
_PROBES = (
    "A man is playing the guitar on stage.",
    "two GREEN squares   spin\tslowly\n",
    "don't-stop: café, cafe\u0301, naïve; 1,234.5 %",
    "person_3's 42nd close-up (slow-motion) & e-mail@home",
    "一只猫坐在桌子上 кошка على 🎬",
    "antidisestablishmentarianism pneumonoultramicroscopic",
    "<pad> </s> [CLS] <unk>",
    "x" * 40,
)


def hash_tokenizer(vocabulary: Mapping[str, int], read: Callable[[list[str]], Sequence[Sequence[int]]]) -> str:
    """Hash a tokenizer: its vocabulary with the ids, and the ids that it gives for some fixed sentences.

    Files are not hashed: their number and form differ between versions of the libraries and do not decide the tokens.

    Parameters
    ----------
    vocabulary : mapping of str to int
        Ids by token.
    read : function
        Returns the ids of texts, special tokens included, without a limit.

    Returns
    -------
    str
        ``xxh3-128:<hex>``
    """
    digest = xxhash.xxh3_128()
    for token, number in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{number}\0{token}\n".encode("utf-8", "surrogatepass"))
    for ids in read(list(_PROBES)):
        digest.update((" ".join(map(str, ids)) + "\n").encode("ascii"))
    return f"xxh3-128:{digest.hexdigest()}"

"""A writer to be killed: adds clips for ever, and says on standard output which are sealed."""

from __future__ import annotations

import sys
from pathlib import Path

from supportset.store.write.writer import FeatureWriter
from tests.store.samples import card, clip


def main(path: Path, shard_format: str, prefix: str, count: int) -> None:
    with FeatureWriter(path, card(), shard_format=shard_format) as writer:
        for i in range(count):
            writer.add(f"{prefix}{i}", *clip(i))
            if i % 3 == 2:
                writer.seal()
                print(i, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))

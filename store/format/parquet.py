"""Parquet files of the store, in memory."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

# Beyond these, a file is a decompression bomb: rows of different clips take more than a byte for 8 of them.
MAX_ROWS = 8  # a byte of the file
MAX_BYTES = 1000  # unpacked, a byte of the file
FREE = 1 << 16  # rows, and bytes, of any file


def open_parquet(content: bytes) -> pq.ParquetFile:
    """Open a Parquet file; ValueError if its metadata say that it unpacks to far more than its size."""
    file = pq.ParquetFile(pa.BufferReader(content))
    metadata = file.metadata
    unpacked = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if metadata.num_rows > FREE + MAX_ROWS * len(content) or unpacked > FREE + MAX_BYTES * len(content):
        raise ValueError(f"{len(content):,} bytes that unpack to {metadata.num_rows:,} rows of {unpacked:,} bytes")
    return file

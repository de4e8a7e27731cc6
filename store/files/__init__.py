"""Access to storage: complete files are written, complete files or ranges are read.

:class:`Folder` is the interface, with one implementation for each kind of storage. Only this package writes files of
the store.
"""

from supportset.store.files.disk_reads import disk_reads
from supportset.store.files.folder import TEMPORARY, Folder, MappedFile, Part, Parts, fetched, telling
from supportset.store.files.hashing import as_part, hash_file, hash_parts, hash_pieces, part_sizes
from supportset.store.files.local import LocalFolder, sync_folder
from supportset.store.files.opening import open_folder
from supportset.store.files.places import RemotePath, StorePath, local_path, store_path

__all__ = [
    "TEMPORARY",
    "Folder",
    "LocalFolder",
    "MappedFile",
    "Part",
    "Parts",
    "RemotePath",
    "StorePath",
    "as_part",
    "disk_reads",
    "fetched",
    "hash_file",
    "hash_parts",
    "hash_pieces",
    "local_path",
    "open_folder",
    "part_sizes",
    "store_path",
    "sync_folder",
    "telling",
]

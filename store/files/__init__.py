"""The one place where the store touches storage: whole files in, whole files or ranges of them out.

:class:`Folder` is what the rest of the store knows; there is one implementation a kind of storage. Nothing else
in the store opens a file to write it.
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

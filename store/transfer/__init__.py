"""Features in and out: what other programs wrote, what other programs read, and one shard format for the other.

:mod:`~supportset.store.transfer.sources` opens what people have (a file a clip, an HDF5 file, a table with an id list),
``transfer.importing`` brings it in, ``transfer.exporting`` writes the same forms, and
:mod:`~supportset.store.transfer.convert` turns Zarr shards into HDF5 shards and back.
"""

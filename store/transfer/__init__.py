"""Import and export of features, and conversion between shard formats.

:mod:`~supportset.store.transfer.opening` opens features of other programs: a file a clip, an HDF5 file, a table with an
id list. ``transfer.importing`` imports them, ``transfer.exporting`` writes the same forms, and ``transfer.convert``
converts the shards of a feature set.
"""

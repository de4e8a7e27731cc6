"""The command line: one module a verb, no logic of its own.

Heavy libraries are imported inside the commands, so that ``--help`` answers at once.
"""

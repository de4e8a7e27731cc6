"""The command line: one module a verb, without logic.

Each command imports heavy libraries when it runs, so ``--help`` answers at once.
"""

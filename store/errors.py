"""Errors that are told to the user in one line, without a traceback.

Every room raises these (``extract`` and ``train`` may import ``store``), and the
command line turns them into one line on standard error and an exit code.
"""


class SupportsetError(Exception):
    """Work that failed: the message names the file, the value and the mend.

    Attributes
    ----------
    exit_code : int
        What the command line exits with: 1 for failed work.
    """

    exit_code = 1


class InvalidFeatures(SupportsetError):  # noqa: N818 - named for what it tells
    """Features of a clip that a feature set cannot hold: wrong shape, no steps, times that are none."""


class ValueOverflow(InvalidFeatures):
    """A clip's features are not finite, or not any more in the stored dtype: record it as that clip's failure."""


class UsageError(SupportsetError):
    """Wrong use: an unknown name, a bad configuration value, an absent input. Exit code 2."""

    exit_code = 2

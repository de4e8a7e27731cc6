"""Errors that the command line prints as one line, without a traceback. All packages raise them."""


class SupportsetError(Exception):
    """Work failed: the message names the file, the value and the fix.

    Attributes
    ----------
    exit_code : int
        Int What the command line exits with: 1 for failed work.
    """

    exit_code = 1


class InvalidFeatures(SupportsetError):  # noqa: N818 - not an error by itself
    """Features that a feature set cannot hold: wrong shape, no steps, impossible timestamps."""


class ValueOverflow(InvalidFeatures):
    """Features of a clip are not finite, or not in the stored dtype: record it as the clip's failure."""


class UsageError(SupportsetError):
    """Wrong use: an unknown name, an impossible value, a missing input."""

    exit_code = 2

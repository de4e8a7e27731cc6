"""Errors of remote storage, as one line with the fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from supportset.store.errors import SupportsetError, UsageError

_INSTALL = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}

_LOG_IN = "log in first: with `aws configure`, or by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_LOG_IN_GOOGLE = "log in first: `gcloud auth application-default login`"
_CONNECT = "check the address (AWS_ENDPOINT_URL, for servers other than Amazon's) and that the server runs"
_PERMIT = "check which credentials are used and their permissions"

# By the name of the class, as the drivers are not imported here.
_FIXES = {
    "NoCredentialsError": _LOG_IN,
    "PartialCredentialsError": _LOG_IN,
    "DefaultCredentialsError": _LOG_IN_GOOGLE,
    "RefreshError": _LOG_IN_GOOGLE,
    "PermissionError": _PERMIT,
    "ConnectionError": _CONNECT,
    "HTTPClientError": _CONNECT,
    "ClientConnectorError": _CONNECT,
    "TimeoutError": _CONNECT,
    "FileNotFoundError": "check the name of the bucket, or make it",
    "FileExistsError": "an object has the name of a folder: move it away",
}


@contextmanager
def telling_remote(action: str, place: object) -> Iterator[None]:
    """Turn any exception of a driver into a SupportsetError that names the place and the fix."""
    try:
        yield
    except SupportsetError:
        raise
    except Exception as error:  # the errors of the drivers have no common class
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        fix = next((fix for kind in type(error).__mro__ if (fix := _FIXES.get(kind.__name__))), None)
        raise SupportsetError(f"{place}: cannot {action}: {reason}" + (f"; {fix}" if fix else "")) from error


@contextmanager
def telling_drivers(url: str) -> Iterator[None]:
    """Turn the exceptions of fsspec for unknown URLs into one line."""
    try:
        yield
    except ImportError as error:
        package = _INSTALL.get(url.partition("://")[0])
        fix = f"pip install {package}" if package else "install the package it names"
        raise UsageError(f"{url}: this kind of URL needs a driver ({error}): {fix}") from None
    except ValueError as error:
        raise UsageError(
            f"{url}: cannot be opened ({error}): use a path, s3://..., gs://..., or another URL of fsspec"
        ) from None
    except Exception as error:
        raise SupportsetError(f"{url}: cannot be opened: {' '.join(str(error).split())[:300]}") from error


def names_missing_bucket(error: OSError) -> bool:
    """Tell whether the bucket is missing: drivers raise the same error for a missing object."""
    return "bucket does not exist" in str(error).lower()

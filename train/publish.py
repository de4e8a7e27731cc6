"""Upload a run to a model hub: the model, its card and its report."""

from __future__ import annotations

import os
from typing import Any

from supportset.store.errors import SupportsetError, UsageError
from supportset.train.run_folder import RunFolder

# What `eval`, `search` and `caption` need, and what people read. Nothing else of the folder leaves the machine.
PUBLISHED = (
    "README.md", "config.toml", "data.json", "best.json", "metrics.jsonl", "config.json",
    "model.safetensors", "text_encoder/*", "decoder/*",
)  # fmt: skip

_PATIENCE_S = 120.0  # for an answer; the library's own default is for ever


def publish(folder: RunFolder, repo: str, *, page: str | None = None, private: bool = False) -> str:
    """Upload a run; the URL of the commit.

    The hub is the one that ``huggingface_hub`` is set to (``HF_ENDPOINT``), the token that of its login or of
    ``HF_TOKEN``.

    Parameters
    ----------
    folder : RunFolder
        With a model.
    repo : str
        ``OWNER/NAME``, made where it is absent.
    page : str, optional
        File of the folder with the report.
    private : bool
        Of a repository that is made.

    Raises
    ------
    UsageError
        No run, no model yet, an impossible name of a repository.
    SupportsetError
        The hub cannot be reached, or refuses.
    """
    folder.model_folder()
    from huggingface_hub import HfApi, get_session
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    session: Any = get_session()
    session.timeout = _PATIENCE_S
    api = HfApi(library_name="supportset")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder.path,
            allow_patterns=[*PUBLISHED, *([page] if page else [])],
            commit_message="Upload a run of supportset",
        )
    except HFValidationError as error:
        raise UsageError(f"--push {repo}: {error}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        mend = (
            "log in with `hf auth login`, or set HF_TOKEN, for an account that may write there; "
            if status in (401, 403)
            else ""
        )
        said = _line(error.server_message or f"status {status}")
        raise SupportsetError(f"--push {repo}: {mend}{api.endpoint} says: {said}") from None
    except Exception as error:  # what a network raises depends on the version of the hub's library
        raise SupportsetError(
            f"--push {repo}: {api.endpoint} cannot be reached ({type(error).__name__}: {_line(error)}); card and page "
            "are in the run folder, the same command uploads them when there is a network"
        ) from None
    return str(done.commit_url)


def _line(message: object) -> str:
    """One short line, without the token, which a server may repeat."""
    from huggingface_hub import get_token

    text = " ".join(str(message).split())
    if token := get_token():
        text = text.replace(token, "<token>")
    return text[:300]

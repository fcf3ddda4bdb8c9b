"""What the Hub answers, as one `HubError` per case that says what happened and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from leptonsdk.errors import HubError, LeptonError, first_line

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_QUOTA = re.compile(r"storage|quota|limit reached|upgrade|payment", re.IGNORECASE)
_XET = re.compile(r"HTTP status \w+ error \((\d{3})")  # hf-xet, which uploads large files, tells a status in words only
_KEPT = "the same command again goes on: what is uploaded is not sent twice"


@contextmanager
def hub_errors(repo_id: str, doing: str) -> Iterator[None]:
    """Errors of huggingface_hub raised inside become a `HubError` about the repository."""
    try:
        yield
    except LeptonError:
        raise
    except Exception as error:
        if (told := describe(error, repo_id, doing)) is None:
            raise
        raise told from error


def describe(error: BaseException, repo_id: str, doing: str) -> HubError | None:
    """The Hub's answer in words; None where an error is not about the Hub at all."""
    from huggingface_hub import errors as hub

    if isinstance(error, ValueError) and "README.md" in str(error):  # by the client, for the Hub's validation
        return _error(repo_id, doing, "the Hub refuses the card's metadata: " + " ".join(str(error).split()), None)
    for cause in _causes(error):  # an upload's error comes wrapped in the client's own RuntimeError
        if isinstance(cause, hub.OfflineModeIsEnabled):
            return _error(repo_id, doing, "HF_HUB_OFFLINE is set, so nothing was asked of the Hub", "unset it")
        if isinstance(cause, hub.LocalTokenNotFoundError):
            return _error(repo_id, doing, "there is no token", LOGIN)
        if isinstance(cause, hub.HfHubHTTPError):
            return _error(repo_id, doing, *_answered(cause))
        if isinstance(cause, ConnectionError) and (told := _XET.search(str(cause))):
            return _error(repo_id, doing, *_by_status(int(told[1]), ""))
        if isinstance(cause, hub.LocalEntryNotFoundError):
            return _error(repo_id, doing, "the Hub cannot be reached, and the cache holds no copy", "check the network")
        if isinstance(cause, (hub.HFValidationError, hub.HfUriError)):
            return _error(repo_id, doing, f"it is no repository's name: {first_line(cause)}", "write owner/name")
        if isinstance(cause, (hub.HTTPError, ConnectionError, TimeoutError)):  # type: ignore[attr-defined]
            what = f"the Hub cannot be reached, or the connection was cut ({first_line(cause)})"
            return _error(repo_id, doing, what, f"check the network; {_KEPT}")
    if isinstance(error, RuntimeError):  # an uploader's own
        return _error(repo_id, doing, f"it broke on the way: {first_line(error)}", _KEPT)
    return None


def _error(repo_id: str, doing: str, message: str, hint: str | None) -> HubError:
    return HubError(message, where=f"{doing} {repo_id}", hint=hint)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _answered(error: Any) -> tuple[str, str | None]:
    """Message and advice for an HTTP answer."""
    from huggingface_hub import errors as hub

    status, said = int(error.response.status_code), _said(error)
    if isinstance(error, hub.GatedRepoError):
        return "it is gated, and this account has not been let in", "ask for access on its page, then try again"
    if isinstance(error, hub.DisabledRepoError):
        return "the Hub has disabled it", "ask the Hub's support"
    if isinstance(error, hub.RepositoryNotFoundError):
        return "there is no such repository, or this account may not see it", f"check the name; {LOGIN}"
    if isinstance(error, hub.RevisionNotFoundError):
        return f"it has no such revision{said}", "name a branch, tag or commit that it has"
    return _by_status(status, said, _wait(error))


def _by_status(status: int, said: str, wait: str = "") -> tuple[str, str | None]:
    """The same by the status alone; ``said`` are the server's words."""
    if status in (402, 413, 507) or (status == 403 and _QUOTA.search(said)):
        return f"the account's storage does not take it (HTTP {status}{said})", (
            "free some space, push fewer artifacts (--artifact), or take a larger plan"
        )
    return {
        401: (f"the Hub does not accept the token{said}", f"make a new one, then {LOGIN}"),
        403: (
            f"the token has no right to do this{said}",
            "use one with the role `write`, or a fine-grained one that names this repository or its owner",
        ),
        404: (f"not found{said}", "check the name"),
        409: (f"something of that name is there already{said}", "choose another name"),
        412: (
            "somebody else committed meanwhile, so nothing of this was written",
            "look at what they did, then give the same command again",
        ),
        416: (f"a part of a file could not be read{said}", _KEPT),
        429: (f"too many requests{wait}", f"wait, then go on; {_KEPT}"),
    }.get(status) or (
        (f"the Hub has a fault of its own (HTTP {status}{said})", f"wait a little; {_KEPT}")
        if status >= 500
        else (f"the Hub refuses it (HTTP {status}{said})", None)
    )


def _said(error: Any) -> str:
    """The server's own words, as ``: words``."""
    words = error.server_message or error.response.headers.get("X-Error-Message") or ""
    words = " ".join(str(words).split())[:300]
    return f": {words}" if words else ""


def _wait(error: Any) -> str:
    seconds = error.response.headers.get("Retry-After")
    return f"; the Hub asks to wait {seconds} s" if seconds else ""

"""What the Hugging Face Hub's client raises, as one sentence with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from export.errors import FULL
from export.remote import RemoteError

_LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may do this"
_MAX_CHARACTERS = 300


class HubStatus(RemoteError):
    """The Hub refused with this HTTP status."""

    def __init__(self, subject: str, expected: str, found: str, remedy: str, status: int) -> None:
        super().__init__(subject, expected, found, remedy)
        self.status = status


@contextmanager
def hub_errors_told(subject: str) -> Iterator[None]:
    """Raises RemoteError, and HubStatus where the Hub answered, for what the client raises."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _of_the_client()):
            raise
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # the disk is no business of the Hub's
        raise _told(subject, error) from error


def _of_the_client() -> tuple[type[Exception], ...]:
    """Its own errors, those of requests (OSErrors), and RuntimeErrors of failed uploads."""
    from huggingface_hub import errors  # noqa: PLC0415 (an extra)

    return (OSError, ValueError, RuntimeError, errors.XetError, errors.XetDownloadError)


def _told(subject: str, error: BaseException) -> RemoteError:
    from huggingface_hub import errors  # noqa: PLC0415 (an extra)

    if isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # the outer one only says which file it was
    if isinstance(error, errors.HFValidationError):
        return RemoteError(subject, "owner/name", _said(error), "check the address")
    if isinstance(error, errors.GatedRepoError):
        remedy = f"accept its terms on its page, and {_LOG_IN}"
        return RemoteError(subject, "access to a gated repository", "none", remedy)
    if isinstance(error, errors.RepositoryNotFoundError):
        found, remedy = "none, or one that is not shown to you", f"check the name; {_LOG_IN}"
        return RemoteError(subject, "a model repository", found, remedy)
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return _refused(subject, error, error.response.status_code)
    remedy = "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, then try again"
    return RemoteError(subject, "the Hub to answer", _said(error.__cause__ or error), remedy)


def _refused(subject: str, error: BaseException, status: int) -> HubStatus:
    found = _said(error)
    if status in (401, 403):
        return HubStatus(subject, "the right to do this", found, _LOG_IN, status)
    remedy = "try again later" if status >= 500 or status == 429 else "see what it says"
    return HubStatus(subject, "the Hub to do as asked", found, remedy, status)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"

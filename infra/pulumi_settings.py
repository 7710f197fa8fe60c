"""What the Pulumi CLI is given as its environment, and what its complaints mean: the only place that knows both."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra import plugin_errors
from infra.border import decode
from pushtrain.errors import EngineError, PushtrainError
from pushtrain.redact import redact

_SWEEP = "what the run rented is found by its name all the same: 'pushtrain sweep'"
_STORAGE = ("file://", "s3://", "gs://", "azblob://", "postgres://")


@dataclass(frozen=True, slots=True)
class _Complaint:
    """A way in which a backend cannot be used: what the CLI says of it, what that means, and what to do."""

    said: str
    reason: str
    message: str
    hint: str


_COMPLAINTS = (
    _Complaint(
        "incorrect passphrase",
        "WrongPassphrase",
        "the stack was made with another passphrase",
        f"set PULUMI_CONFIG_PASSPHRASE, or PULUMI_CONFIG_PASSPHRASE_FILE, to the one it was made with; {_SWEEP}",
    ),
    _Complaint(
        "invalid access token|401 Unauthorized|Unauthorized: No credentials",
        "BackendRefused",
        "the service does not take PULUMI_ACCESS_TOKEN",
        "it is no token of that service, or a revoked one; app.pulumi.com/account/tokens makes one",
    ),
    _Complaint("NoSuchBucket", "BackendRefused", "there is no such bucket", "create it, or correct PULUMI_BACKEND_URL"),
    _Complaint(
        "AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId|StatusCode: 403|failed to refresh cached credentials",
        "BackendRefused",
        "the bucket does not take the credentials, or there are none",
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION) have to be able to list, read, write and delete",
    ),
    _Complaint(
        "connection refused|no such host|i/o timeout|connection reset|network is unreachable|number of attempts",
        "BackendUnavailable",
        "the backend of the state does not answer",
        f"try again when it does; {_SWEEP}",
    ),
)


def pulumi_environ(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment of every call. An empty variable counts as unset: a workflow makes one of a secret nobody set.

    Raises EngineError for a service without a token, and for a passphrase file that cannot be read.
    """
    given = {name: value for name, value in environ.items() if value}
    made = {
        "PULUMI_BACKEND_URL": folder.as_uri(),
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        **given,
        "PULUMI_PYTHON_CMD": sys.executable,
        "PULUMI_SKIP_UPDATE_CHECK": "1",
    }
    if "PULUMI_CONFIG_PASSPHRASE" not in given:
        file = given.get("PULUMI_CONFIG_PASSPHRASE_FILE")
        if file is None:
            # State holds no secret, so that there is nothing for a passphrase to protect; the CLI insists on one.
            made["PULUMI_CONFIG_PASSPHRASE"] = ""
        else:
            made["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(_readable(Path(file)))
    url = made["PULUMI_BACKEND_URL"]
    if not (is_service(url) or url.startswith(_STORAGE)):
        raise EngineError(
            f"PULUMI_BACKEND_URL={redact(url, environ)!r} is nothing that keeps Pulumi's state",
            reason="BackendRefused",
            hint=f"https:// for a service, or one of {', '.join(_STORAGE)}",
        )
    if is_service(url) and not {"PULUMI_ACCESS_TOKEN", "PULUMI_HOME"} & given.keys():
        raise EngineError(
            f"PULUMI_ACCESS_TOKEN is not set, and {redact(url, environ)} wants one",
            reason="BackendRefused",
            hint="app.pulumi.com/account/tokens makes one; unset PULUMI_BACKEND_URL keeps the state in a local folder",
        )
    return made


def is_service(backend_url: str) -> bool:
    """Pulumi Cloud, or a service like it; everything else is storage that the CLI itself writes to."""
    return backend_url.startswith(("https://", "http://"))


def error_of(text: str, environ: Mapping[str, str]) -> PushtrainError:
    """What a failed command printed, as an error of ours: the cloud's own where one crossed the CLI."""
    crossed = decode(text) or plugin_errors.decode(text)
    if crossed is not None:
        return crossed
    said = redact(f"pulumi: {_said(text)}", environ)
    for complaint in _COMPLAINTS:
        if re.search(complaint.said, said):
            where = redact(environ["PULUMI_BACKEND_URL"], environ)
            return EngineError(
                f"{complaint.message} (state in {where}): {said[:400]}", reason=complaint.reason, hint=complaint.hint
            )
    return EngineError(said)


def _said(text: str) -> str:
    """What the lines say after 'error:', or the last lines: a CommandError's text is the CLI's whole output."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
    said = [error.removeprefix("an unhandled error occurred: ") for error in errors] or lines[-8:]
    return " | ".join(dict.fromkeys(said))[:2000]


def _readable(file: Path) -> Path:
    """As an absolute path: the CLI works in a folder of its own."""
    try:
        with file.open("rb"):
            return file.absolute()
    except OSError as error:
        raise EngineError(f"PULUMI_CONFIG_PASSPHRASE_FILE: {file}: {error.strerror}") from None

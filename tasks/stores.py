"""Object stores by a URL: how S3-compatible ones and Azure's are reached, and what they say.

Keys are never written to logs or settings: they come from the environment as the tools of AWS and
of Azure name them, or from a connection. What may pass by itself (a store that is busy, a
connection that is cut) obstore and deltalake try again, waiting longer each time.
"""

import datetime as dt
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.connections import azure_options, s3_options
from tasks.errors import NotReadyError, PipelineError

if TYPE_CHECKING:
    from obstore.store import AzureStore, S3Store

RETRIES = 6  # of a request: some seconds in all, for each one waits about twice as long
PATIENCE = dt.timedelta(minutes=1)

# What a store says that a person has to mend, by its error codes.
NO_BUCKET = {"NoSuchBucket", "InvalidBucketName", "ContainerNotFound", "InvalidResourceName"}
OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestTimeTooSkewed"}
REFUSED = {
    "AccessDenied",
    "AllAccessDisabled",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "AuthorizationPermissionMismatch",
    "AuthorizationProtocolMismatch",
    "InsufficientAccountPermissions",
    "InvalidAccessKeyId",
    "InvalidAuthenticationInfo",
    "InvalidToken",
    "NoAuthenticationInformation",
    "SignatureDoesNotMatch",
}
NO_KEYS = r"169\.254\.169\.254|loading credentials"  # the machine itself was asked for some
LACKS_RIGHTS = "The operation lacked"  # privileges, or valid credentials: in deltalake's words
OF_A_STORE = (  # what of an error's text tells that a store was asked
    rf"S3 error|MicrosoftAzure error|object-store error|Error performing |{LACKS_RIGHTS}|{NO_KEYS}"
)
DOING = {"PUT": "written", "POST": "written", "DELETE": "deleted"}  # by method; others: read


@dataclass(frozen=True)
class Said:
    """The settings that say where a store is and with which keys, and what is done there."""

    url: str  # the setting of the URL, as messages name it
    connection: str
    endpoint: str = ""
    region: str = ""
    rights: str = "list and read it"
    error: type[PipelineError] = PipelineError


class StoreAwayError(NotReadyError, ConnectionError):
    """A store does not answer, or not as it should; trying again later may help."""


class Address:
    """What a setting names in an object store, by a URL such as s3://bucket/events.

    The settings and the connection go before the environment.

    Raises
    ------
    PipelineError
        The URL is of another kind; of the class that `said` names.
    """

    def __init__(
        self,
        url: str,
        said: Said,
        *,
        connection: str = "",
        endpoint: str = "",
        region: str = "",
        schemes: tuple[str, ...] = ("s3", "az"),
    ) -> None:
        self.url, self.said = url, said
        self.scheme, _, rest = url.partition("://")
        self.bucket, _, key = rest.partition("/")
        self.parts = key.rstrip("/").split("/") if key.rstrip("/") else []
        if self.scheme not in schemes or not self.bucket or {"", ".", ".."} & set(self.parts):
            forms = " or ".join(f"{scheme}://bucket/folder" for scheme in schemes)
            raise said.error(
                f"{said.url} is {url}: of URLs those are read that are written {forms}, without "
                "empty parts, . and .."
            )
        if self.scheme == "s3":
            options = s3_options(connection) if connection else {}
            if region:
                options["region"] = region
            named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            found = endpoint or options.pop("endpoint", "") or named or ""
            if found:
                options["endpoint_url_s3"] = found  # goes before that of the environment
            self.options = {f"aws_{name}": value for name, value in options.items()}
        else:
            options = azure_options(connection) if connection else {}
            found = (
                endpoint
                or options.pop("endpoint", "")
                or os.environ.get("AZURE_STORAGE_ENDPOINT")
                or ""
            )
            if found:
                options["endpoint"] = found
            self.options = {f"azure_storage_{name}": value for name, value in options.items()}
        self.allow_http = found.startswith("http://")

    @property
    def key(self) -> str:
        """What comes after the bucket, without a / at its ends."""
        return "/".join(self.parts)

    def store(self, prefix: str | None = None) -> "S3Store | AzureStore":
        """Return the bucket as obstore reaches it, or what is below a prefix of it.

        Raises PipelineError, of the class that `said` names, for keys that can be none.
        """
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, S3Store

        options: dict[str, Any] = dict(self.options)
        kind = S3Store if self.scheme == "s3" else AzureStore
        try:
            return kind(
                self.bucket,
                prefix=prefix,
                client_options={"allow_http": self.allow_http},
                retry_config={"max_retries": RETRIES, "retry_timeout": PATIENCE},
                **options,
            )
        except BaseError as error:
            raise self.said.error(
                f"{self.url} cannot be reached ({first_line(str(error))}): correct "
                f"{self._keys()}, or the connection that {self.said.connection} names"
            ) from None

    def delta_options(self) -> dict[str, str]:
        """Return what the deltalake package is to be told of the store; it holds the secret."""
        return self._with_region() | {
            "allow_http": str(self.allow_http).lower(),
            "max_retries": str(RETRIES),
            "retry_timeout": f"{PATIENCE.seconds}s",
        }

    def polars_options(self) -> dict[str, Any]:
        """Return what polars is to be told of the store; it holds the secret."""
        return self._with_region() | {
            "allow_http": str(self.allow_http).lower(),
            "max_retries": RETRIES,
            "retry_timeout_ms": PATIENCE.seconds * 1000,
        }

    def _with_region(self) -> dict[str, str]:
        if self.scheme != "s3":
            return dict(self.options)
        # Without one it would ask the machine that it may be running on.
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return {"aws_region": region or "us-east-1"} | self.options

    @contextmanager
    def explaining(self, *kinds: type[Exception]) -> Iterator[None]:
        """Turn what the store says into a sentence; what may pass by itself is tried again.

        kinds: errors of obstore's callers that may hold the store's words; without these words
        they come as they are.
        """
        from obstore.exceptions import BaseError, InvalidPathError

        told: tuple[type[Exception], ...] = (BaseError, *kinds)
        try:
            yield
        except (PipelineError, NotReadyError):
            raise
        except InvalidPathError as error:
            raise self.said.error(
                f"{self.url}: {first_line(str(error))}; rename the object, or name another prefix"
            ) from None
        except told as error:
            text = str(error)
            if not isinstance(error, BaseError):
                if not re.search(OF_A_STORE, text):
                    raise
                text = re.sub(r"(\x1b\[\d+m|↳|\s)+", " ", text)  # drawn as a tree for a terminal
            raise self._sentence(error, text) from None

    def _sentence(self, error: Exception, text: str) -> Exception:
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        said = self.said
        code = (re.findall(r"<Code>(\w+)</Code>", text) or [""])[0]
        method = (re.findall(r"performing ([A-Z]+) ", text) or [""])[0]
        doing = DOING.get(method, "read")
        if code in NO_BUCKET:
            where = f"{said.url} or {said.endpoint}" if said.endpoint else said.url
            return said.error(f"there is no bucket {self.bucket}: correct {where}")
        if code in OTHER_REGION or "configured region" in text:
            return said.error(
                f"the bucket {self.bucket} is in another region: correct "
                f"{said.region or f'the region of the connection in {said.connection}'}"
            )
        if code in EXPIRED:
            mend = (
                "set the clock of this machine"
                if code == "RequestTimeTooSkewed"
                else "renew the keys, or give ones that do not expire within a night"
            )
            return said.error(f"{self.url} is refused ({code}) when it is to be {doing}: {mend}")
        lacks_rights = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        if code in REFUSED or lacks_rights or LACKS_RIGHTS in text:
            return said.error(
                f"{self.url} is refused ({code or type(error).__name__}) when it is to be {doing}: "
                f"give keys that may {said.rights}, in {self._keys()} or in the connection that "
                f"{said.connection} names"
            )
        if re.search(NO_KEYS, text):
            return said.error(
                f"there are no keys for {self.url}: set {self._keys()}, or name a connection in "
                f"{said.connection}"
            )
        return StoreAwayError(f"{self.url} cannot be {doing}: {without_query(first_line(text))}")

    def _keys(self) -> str:
        if self.scheme == "s3":
            return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"


def first_line(text: str) -> str:
    """Return the first line of what a library says, without a full stop."""
    return text.partition("\n")[0].rstrip(". ")


def without_query(text: str) -> str:
    """Take the queries out of the URLs in a text: a signature there is a secret."""
    return re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text)

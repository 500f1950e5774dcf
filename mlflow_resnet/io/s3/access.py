"""Clients of S3, retries, and explanations of its errors."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mlflow_resnet.errors import InvalidDatasetError, MissingPackageError, ObjectUnreadableError, StoreUnreachableError
from mlflow_resnet.io.reasons import one_line

T = TypeVar("T")

PATIENCE_SECONDS = 60.0  # with a server that is too busy, or whose answers break off
LONGEST_PAUSE_SECONDS = 5.0  # between two attempts
CONNECT_SECONDS, READ_SECONDS = 5, 30
CONNECTIONS = 32  # at once; more threads would wait for each other

CREDENTIALS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
MEANINGS = {
    "403": f"access denied. Check the credentials and the bucket's policy. {CREDENTIALS}",
    "404": "nothing there. Check the bucket and the prefix.",
    "301": "the bucket is in another region; set AWS_DEFAULT_REGION.",
    "412": "changed while it was being read. Run the command again.",
    "503": f"the server is too busy, for {PATIENCE_SECONDS:.0f} seconds. Run the command again later.",
}
OF_ONE_OBJECT = ("403", "404", "412")
PASSING = ("429", "500", "502", "503", "504")
CODES = {
    "AccessDenied": "403",
    "AllAccessDisabled": "403",
    "InvalidAccessKeyId": "403",
    "SignatureDoesNotMatch": "403",
    "ExpiredToken": "403",
    "InvalidToken": "403",
    "NoSuchBucket": "404",
    "NoSuchKey": "404",
    "NotFound": "404",
    "PermanentRedirect": "301",
    "AuthorizationHeaderMalformed": "301",
    "PreconditionFailed": "412",
    "InternalError": "500",
    "RequestTimeout": "503",
    "SlowDown": "503",
    "ServiceUnavailable": "503",
}


def connect_s3(uri: str, attempts: int = 1) -> Any:
    """A client for `uri`, which any number of threads may use, with the usual AWS configuration.

    It makes so many attempts at a request itself; `patiently` makes more. The endpoint is
    $MLFLOW_S3_ENDPOINT_URL, as for MLflow's artifacts, else what AWS's own variables and files say.

    Raises:
        InvalidDatasetError: if that configuration cannot be used.
        MissingPackageError: if boto3 is not installed.
    """
    try:
        import boto3  # takes a third of a second
        from botocore.config import Config
    except ModuleNotFoundError:  # where a model is served, which brings only what it needs for bytes and files
        raise MissingPackageError("s3://", "boto3>=1.35") from None

    config = Config(
        retries={"total_max_attempts": attempts},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=CONNECTIONS,
    )
    verify = False if os.environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() == "true" else None
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None
    try:
        return boto3.client("s3", endpoint_url=endpoint, config=config, verify=verify)
    except Exception as error:
        raise explain_error(uri, error) from None


def patiently(uri: str, request: Callable[[], T]) -> T:
    """`request()`, again and again while the server is too busy or the connection breaks off.

    botocore's own retries would not do: all requests of a client share a quota of them, which a busy server uses up
    after 250 objects, and they do not cover the body of an answer.

    Raises InvalidDatasetError about `uri`, if that does not help, or for any other error. It shows no secret.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    longest = 0.1
    while True:
        try:
            return request()
        except Exception as error:
            if not is_passing(error) or time.monotonic() > deadline:
                raise explain_error(uri, error) from None
        time.sleep(random.uniform(0, longest))
        longest = min(2 * longest, LONGEST_PAUSE_SECONDS)


def is_passing(error: Exception) -> bool:
    """Returns whether the same request may succeed a little later."""
    from botocore import exceptions as known

    if isinstance(error, known.ClientError):
        return read_status(error.response) in PASSING
    broken = (known.HTTPClientError, known.IncompleteReadError, known.FlexibleChecksumError)
    return isinstance(error, broken) and not isinstance(error, known.SSLError)


def explain_error(uri: str, error: Exception) -> Exception:
    """Returns an error of boto3 as an InvalidDatasetError about `uri`; other errors as they are."""
    from botocore import exceptions as known

    if isinstance(error, known.ClientError):
        status = read_status(error.response)
        kind: type[InvalidDatasetError] = StoreUnreachableError if status in PASSING else InvalidDatasetError
        if status in OF_ONE_OBJECT:
            kind = ObjectUnreadableError
        return kind(uri, MEANINGS.get(status, f"S3 answered: {one_line(error)}"))
    if isinstance(error, (known.NoCredentialsError, known.PartialCredentialsError)):
        return InvalidDatasetError(uri, f"no AWS credentials were found. {CREDENTIALS}")
    if isinstance(error, known.NoRegionError):
        return InvalidDatasetError(uri, "no AWS region is set. Set AWS_DEFAULT_REGION.")
    if isinstance(error, (known.ConnectionError, known.ConnectTimeoutError)):
        endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL", "S3")
        return StoreUnreachableError(uri, f"{endpoint} does not answer ({type(error).__name__}).")
    if isinstance(error, (known.BotoCoreError, ValueError)):  # ValueError: an endpoint that is no URL
        return InvalidDatasetError(uri, f"cannot be read ({one_line(error)})")
    return error


def read_status(response: dict[str, Any]) -> str:
    """The key in MEANINGS of an answer that is an error: by its code, else its HTTP status."""
    code = response.get("Error", {}).get("Code", "")
    return CODES.get(code) or str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))

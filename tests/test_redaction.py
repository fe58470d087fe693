"""No secret in any text: messages, errors and their chains, logs, reports, pickles."""

import base64
import inspect
import io
import logging
import pickle
import secrets
import socket
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import parse_qs, quote

import pytest
from azure.storage.blob import ContainerClient, ContainerSasPermissions, generate_container_sas
from servers.azurite import Azurite
from servers.faults import Fault, faulty

from prefect_datastores import errors
from prefect_datastores.errors import (
    AuthenticationFailed,
    CredentialExpired,
    DatastoreError,
    EndpointUnreachable,
    ScriptFailed,
    ServiceBusy,
    StageFailed,
    TransferError,
)
from prefect_datastores.redaction import MASK, RedactingFilter, guard_loggers, remember, scrub
from prefect_datastores.staging.download import DownloadRequest, download
from prefect_datastores.staging.report import TransferReport
from prefect_datastores.staging.upload import upload
from prefect_datastores.staging.walk import folder_source
from prefect_datastores.stores.blob import BlobStore
from prefect_datastores.stores.retry import RetryingStore, RetryPolicy
from prefect_datastores.testing import put

KEY = base64.b64encode(
    b"\xff\xef secret key of an account, 64 bytes as Azure gives them" + b"=" * 7
).decode()
SIGNATURE = "Zm9v%2FYmFy%2BYmF6cXV4cXV1eA%3D%3D"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"https://a.blob.core.windows.net/c?sv=2024&sig={SIGNATURE}&se=x", SIGNATURE),
        (f"?SIG={SIGNATURE}", SIGNATURE),
        (f"GET /c?comp=list&sig={SIGNATURE} HTTP/1.1", SIGNATURE),
        (f"{{'url': 'https://a/c?sig={SIGNATURE}'}}", SIGNATURE),
        (f"signature={SIGNATURE}", SIGNATURE),
        (f"AccountName=a;AccountKey={KEY};EndpointSuffix=x", KEY),
        (f"BlobEndpoint=x;SharedAccessSignature=sv=1&sig={SIGNATURE};y", SIGNATURE),
        ("client_secret=hunter2hunter2&grant_type=client_credentials", "hunter2hunter2"),
        ("Server=x;Password=hunter2;Database=y", "hunter2"),
        ("Authorization: Bearer eyJ0eXAi.abc-_def.ghi~jkl", "eyJ0eXAi.abc-_def.ghi~jkl"),
        (f"'Authorization': 'SharedKey account:{KEY}'", KEY),
        (f"Authorization: SharedKeyLite account:{KEY}", KEY),
    ],
)
def test_a_secret_is_known_by_its_shape(text: str, secret: str) -> None:
    scrubbed = scrub(text)
    assert secret not in scrubbed
    assert MASK in scrubbed
    assert scrub(scrubbed) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The design=blue of the sig is fine.",
        "The bearer of this token is a person.",
        "https://a.blob.core.windows.net/c/day=1/part.parquet?comp=list&prefix=a",
        "account_key is missing; AccountKey has no value",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert scrub(text) == text


def test_what_stands_around_a_secret_stays() -> None:
    assert scrub(f"a?sv=1&sig={SIGNATURE}&se=2 then") == f"a?sv=1&sig={MASK}&se=2 then"
    assert scrub(f"AccountName=n;AccountKey={KEY};X=y") == f"AccountName=n;AccountKey={MASK};X=y"


def test_a_remembered_secret_is_masked_in_any_shape() -> None:
    secret = f"p/s+ {secrets.token_urlsafe(12)}="
    assert secret in scrub(f"not known yet: {secret}")
    remember(secret)
    for shape in (secret, quote(secret, safe=""), quote(secret, safe="").replace("%20", "+")):
        assert scrub(f"so: <{shape}>") == f"so: <{MASK}>"


def test_a_short_word_is_not_taken_for_a_secret() -> None:
    remember("public")
    remember("")
    assert scrub("a public container") == "a public container"


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    short = secrets.token_hex(8)
    remember(short)
    remember(f"{short}-and-more")
    assert scrub(f"{short}-and-more") == MASK


# Errors.


def error_classes(kind: type[DatastoreError] = DatastoreError) -> Iterator[type[DatastoreError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from error_classes(below)


ERRORS = sorted(
    {kind for kind in error_classes() if kind.__module__ == errors.__name__},
    key=lambda kind: kind.__name__,
)
MESSAGE = f"https://a/c?sig={SIGNATURE} failed."
REPORT = TransferReport(False, "memory://m", "/tmp/d", (), 0.0)


def made(kind: type[DatastoreError], message: str) -> DatastoreError:
    if kind is StageFailed:
        return StageFailed(message, REPORT)
    if kind is ScriptFailed:
        return ScriptFailed(message, exit_code=3, tail=("last", "lines"))
    if kind is ServiceBusy:
        return ServiceBusy(message, retry_after=1.5)
    return kind(message)


def test_every_error_of_the_tree_is_tried_here() -> None:
    classes = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, DatastoreError)
    }
    assert {kind.__name__ for kind in ERRORS} == classes
    assert all(name in (errors.__doc__ or "") for name in classes)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_shows_no_secret_however_it_is_shown(kind: type[DatastoreError]) -> None:
    error = made(kind, MESSAGE)
    assert str(error) == f"https://a/c?sig={MASK} failed."
    shown = [repr(error), repr(error.args), f"{error}", "".join(traceback.format_exception(error))]
    shown += [repr(vars(error)), repr(getattr(error, "strerror", "")), repr(error.__reduce__())]
    assert not [text for text in shown if SIGNATURE in text]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_the_same_after_a_pickle(kind: type[DatastoreError]) -> None:
    error = made(kind, MESSAGE)
    pickled = pickle.dumps(error)
    again = pickle.loads(pickled)
    assert SIGNATURE.encode() not in pickled
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


def test_a_chain_of_errors_shows_no_secret() -> None:
    def fail() -> None:
        try:
            raise AuthenticationFailed(MESSAGE)
        except AuthenticationFailed as cause:
            raise TransferError(f"Because of {cause} and sig={SIGNATURE}.") from cause

    with pytest.raises(TransferError) as caught:
        fail()
    assert SIGNATURE not in "".join(traceback.format_exception(caught.value))


# Logs, over real sockets.


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """What all loggers emit at DEBUG, as a handler at the root writes it."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    root = logging.getLogger()
    names = ("prefect_datastores.http", "urllib3", "azure", "requests", "msal")
    loud = [root, *map(logging.getLogger, names)]
    before = [logger.level for logger in loud]
    root.addHandler(handler)
    try:
        for logger in loud:
            logger.setLevel(logging.DEBUG)
        yield written
    finally:
        root.removeHandler(handler)
        for logger, level in zip(loud, before, strict=True):
            logger.setLevel(level)


def sas_of(azurite: Azurite, container: ContainerClient, **more: timedelta) -> str:
    return generate_container_sas(
        azurite.account,
        container.container_name,
        account_key=azurite.key,
        permission=ContainerSasPermissions(read=True, write=True, list=True, delete=True),
        expiry=datetime.now(timezone.utc) + more.get("lasts", timedelta(hours=1)),
    )


def spellings(sas: str) -> list[str]:
    (signature,) = parse_qs(sas)["sig"]
    return [signature, quote(signature, safe=""), quote(signature), sas]


def leaks(text: str, *hidden: str) -> list[str]:
    return [line for line in text.splitlines() if any(secret in line for secret in hidden)]


AT_ONCE = RetryPolicy(tries=2, sleep=lambda _: None, jitter=lambda: 0.0)


def test_a_signature_is_in_no_log_of_a_transfer(
    azurite: Azurite, container: ContainerClient, tmp_path: Path
) -> None:
    sas = sas_of(azurite, container)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"content")
    with (
        everything_logged() as written,
        faulty(azurite.host, azurite.port, Fault("GET", "answer", skip=1)) as proxy,
    ):
        url = f"http://127.0.0.1:{proxy.port}/{azurite.account}"
        with closing(BlobStore(url, container.container_name, sas_token=f"?{sas}")) as bare:
            store = RetryingStore(bare, AT_ONCE)
            sent = upload(store, folder_source(tmp_path / "source"), "", "fail")
            fetched = download(store, tmp_path / "copy", DownloadRequest())
            shown = [bare.url, store.url, repr(sent.to_dict()), repr(fetched), fetched.summary()]
    log = written.getvalue()
    # The requests are in the log, with their signatures masked: it is not silent.
    ours = [line for line in log.splitlines() if line.startswith("prefect_datastores.http ")]
    assert len(ours) > 3
    assert all(MASK in line for line in ours)
    assert leaks(log, *spellings(sas)) == []
    assert leaks("\n".join(shown), *spellings(sas)) == []


def test_an_account_key_is_in_no_log_and_no_error(
    azurite: Azurite, container: ContainerClient, tmp_path: Path
) -> None:
    wrong = base64.b64encode(secrets.token_bytes(64)).decode()
    with everything_logged() as written:
        good = BlobStore(azurite.url, container.container_name, account_key=azurite.key)
        with closing(good):
            put(good, "file", b"content")
            download(good, tmp_path, DownloadRequest())
        bad = BlobStore(azurite.url, container.container_name, account_key=wrong)
        with closing(bad), pytest.raises(AuthenticationFailed, match="account key") as caught:
            bad.check_root()
    text = written.getvalue() + "".join(traceback.format_exception(caught.value))
    assert "prefect_datastores.http PUT " in text
    assert leaks(text, azurite.key, quote(azurite.key, safe=""), wrong, quote(wrong, safe="")) == []


def whole_chain(error: BaseException | None) -> list[BaseException]:
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def shown(error: BaseException) -> str:
    """All that a log or a debugger would show of an error, its hidden context too."""
    return "\n".join(
        f"{one!r}\n{one}\n{''.join(traceback.format_exception(one))}" for one in whole_chain(error)
    )


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 416, 500, 503])
def test_no_answer_of_the_service_brings_a_signature_into_an_error(
    azurite: Azurite, container: ContainerClient, status: int
) -> None:
    sas = sas_of(azurite, container)
    # A service that quotes the request, as proxies and firewalls do.
    page = f"<html>GET /c?{sas} is not allowed here</html>".encode()
    fault = Fault("", "answer", times=None, status=status, body=page)
    with faulty(azurite.host, azurite.port, fault) as proxy, everything_logged() as written:
        url = f"http://127.0.0.1:{proxy.port}/{azurite.account}"
        with (
            closing(BlobStore(url, container.container_name, sas_token=sas)) as store,
            pytest.raises(DatastoreError) as caught,
        ):
            store.check_root()
    assert leaks(f"{caught.value}\n{caught.value!r}", *spellings(sas)) == []
    assert leaks("".join(traceback.format_exception(caught.value)), *spellings(sas)) == []
    assert leaks(written.getvalue(), *spellings(sas)) == []


@pytest.mark.parametrize("action", ["reset", "truncate", "lose"])
def test_no_broken_connection_brings_a_signature_into_an_error(
    azurite: Azurite, container: ContainerClient, action: str
) -> None:
    sas = sas_of(azurite, container)
    fault = Fault("", action, times=None)  # type: ignore[arg-type]
    with faulty(azurite.host, azurite.port, fault) as proxy, everything_logged() as written:
        url = f"http://127.0.0.1:{proxy.port}/{azurite.account}"
        with (
            closing(BlobStore(url, container.container_name, sas_token=sas)) as store,
            pytest.raises(ServiceBusy) as caught,
        ):
            store.check_root()
    assert leaks(shown(caught.value), *spellings(sas)) == []
    assert leaks(written.getvalue(), *spellings(sas)) == []


def test_a_host_that_nobody_answers_at_brings_no_signature_into_an_error(
    azurite: Azurite, container: ContainerClient
) -> None:
    sas = sas_of(azurite, container)
    with socket.socket() as bound, everything_logged() as written:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/account"
        with (
            closing(BlobStore(url, "container", sas_token=sas)) as store,
            pytest.raises(EndpointUnreachable) as caught,
        ):
            store.check_root()
    assert leaks("".join(traceback.format_exception(caught.value)), *spellings(sas)) == []
    assert leaks(written.getvalue(), *spellings(sas)) == []


def test_an_expired_signature_is_told_without_it(
    azurite: Azurite, container: ContainerClient
) -> None:
    sas = sas_of(azurite, container, lasts=timedelta(hours=-1))
    with (
        closing(BlobStore(azurite.url, container.container_name, sas_token=sas)) as store,
        pytest.raises((CredentialExpired, AuthenticationFailed), match="SAS token") as caught,
    ):
        store.check_root()
    assert leaks(shown(caught.value), *spellings(sas)) == []


def test_a_signature_alone_is_masked_once_a_store_uses_it(
    azurite: Azurite, container: ContainerClient
) -> None:
    sas = sas_of(azurite, container)
    BlobStore(azurite.url, container.container_name, sas_token=sas).close()
    for spelling in spellings(sas):
        assert spelling not in scrub(f"the service computed <{spelling}> instead")


def test_a_filter_keeps_the_record_and_masks_its_arguments() -> None:
    record = logging.LogRecord("a", logging.DEBUG, "f", 1, "GET %s %d", (MESSAGE, 7), None)
    assert RedactingFilter().filter(record)
    assert record.getMessage() == f"GET https://a/c?sig={MASK} failed. 7"
    plain = logging.LogRecord("a", logging.DEBUG, "f", 1, "GET %s", ("x",), None)
    assert RedactingFilter().filter(plain)
    assert (plain.msg, plain.args) == ("GET %s", ("x",))


def test_loggers_are_guarded_once() -> None:
    guard_loggers()
    guard_loggers()
    filters = logging.getLogger("urllib3.connectionpool").filters
    assert sum(isinstance(one, RedactingFilter) for one in filters) == 1

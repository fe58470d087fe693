"""Every way to sign in is gone for real: tokens of a local authority open Azurite over TLS."""

from __future__ import annotations

import base64
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from pydantic import SecretStr, ValidationError
from servers import azurite as azurite_server
from servers.azurite import Azurite
from servers.identity import (
    CLIENT,
    FEDERATED,
    RESOURCE_ID,
    SECRET,
    TENANT,
    USER_ASSIGNED,
    Identities,
    Tls,
    identities,
    make_tls,
)

from prefect_datastores import (
    AccountKey,
    AzureBlobDatastore,
    AzureCli,
    Certificate,
    ConnectionString,
    Identity,
    ManagedIdentity,
    SasToken,
    ServicePrincipal,
    WorkloadIdentity,
)
from prefect_datastores.datastores.auth import AzureAuth
from prefect_datastores.datastores.credentials import authority_options, token_credential
from prefect_datastores.errors import AuthenticationFailed, ConfigurationError
from prefect_datastores.redaction import scrub

PASSWORD = "password-of-the-certificate"
NOBODY = "99999999-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """An authority of certificates that nobody but the tests here trusts."""
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, tls: Tls) -> Iterator[Azurite]:
    """An Azurite that speaks TLS and takes tokens."""
    running = azurite_server.start(tmp_path_factory.mktemp("azurite"), tls)
    running.server.wait_until_ready()
    yield running
    running.server.stop()


@pytest.fixture
def authority(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identities]:
    """The local authority, trusted, and reached without a proxy."""
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(tls.authority))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with identities(tls.context()) as known:
        yield known


@pytest.fixture(scope="module")
def certificate() -> tuple[bytes, bytes]:
    """A certificate of the application, and its private key."""
    issued = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert(
        "app", key_type=trustme.KeyType.RSA
    )
    return issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()


def on(azurite: Azurite, auth: AzureAuth, container: str = "") -> AzureBlobDatastore:
    """A datastore on that Azurite; with its key, a new container is made for it."""
    name = container or f"c{uuid.uuid4().hex[:12]}"
    made = AzureBlobDatastore(
        account_name=azurite.account,
        container_name=name,
        auth=auth,
        protocol=azurite.protocol,
        endpoint=f"{azurite.host}:{azurite.port}",
    )
    if not container:
        key = AccountKey(account_key=SecretStr(azurite.key))
        with on(azurite, key, name).open_store() as store:
            store.create_root()
    return made


def use(datastore: AzureBlobDatastore) -> None:
    """Put, list and get."""
    datastore.write_path("folder/x", b"data")
    assert [info.name for info in datastore.list_objects()] == ["folder/x"]
    assert datastore.read_path("folder/x") == b"data"


def by_secret(**more: str) -> ServicePrincipal:
    return ServicePrincipal(
        tenant_id=TENANT, client_id=CLIENT, client_secret=SecretStr(SECRET), **more
    )


# -- service principals -----------------------------------------------------------------------------


def test_a_service_principal_signs_in_by_its_secret(secure: Azurite, authority: Identities) -> None:
    use(on(secure, by_secret(authority_url=authority.authority)))
    assert {asked["client_id"] for asked in authority.asked} == {CLIENT}
    assert {asked["scope"].split()[0] for asked in authority.asked} == {
        "https://storage.azure.com/.default"
    }


def test_the_environment_names_the_authority(
    secure: Azurite, authority: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", authority.authority)
    use(on(secure, by_secret()))


def test_a_token_is_for_the_resource_that_was_named(secure: Azurite, authority: Identities) -> None:
    resource = f"https://{secure.account}.blob.core.windows.net"
    use(on(secure, by_secret(authority_url=authority.authority, resource_url=resource)))
    assert {asked["scope"].split()[0] for asked in authority.asked} == {f"{resource}/.default"}


def test_a_wrong_secret_says_so_and_shows_none(secure: Azurite, authority: Identities) -> None:
    wrong = "not-the-secret-0123456789"
    auth = by_secret(authority_url=authority.authority).model_copy(
        update={"client_secret": SecretStr(wrong)}
    )
    with pytest.raises(AuthenticationFailed, match="AADSTS7000215: invalid_client") as refused:
        on(secure, auth).list_objects()
    assert wrong not in str(refused.value)


@pytest.mark.parametrize("shape", ["pem", "pem in one line", "path", "pfx", "locked pem"])
def test_a_service_principal_signs_in_by_its_certificate(
    secure: Azurite,
    authority: Identities,
    certificate: tuple[bytes, bytes],
    shape: str,
    tmp_path: Path,
) -> None:
    public, private = certificate
    key = load_pem_private_key(private, None)
    text, password, lock = (
        (private + public).decode(),
        "",
        BestAvailableEncryption(PASSWORD.encode()),
    )
    if shape == "pem in one line":  # as a form's field of one line makes of it
        text = text.replace("\n", " ")
    if shape == "path":
        (tmp_path / "app.pem").write_text(text)
        text = str(tmp_path / "app.pem")
    if shape == "pfx":
        whole = pkcs12.serialize_key_and_certificates(
            b"app",
            key,  # type: ignore[arg-type]
            x509.load_pem_x509_certificate(public),
            None,
            lock,
        )
        text, password = base64.b64encode(whole).decode(), PASSWORD
    if shape == "locked pem":
        locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
        text, password = (locked + public).decode().replace("\n", ""), PASSWORD
    authority.certificate = public
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_AUTHORITY_HOST", authority.authority)
        use(on(secure, by_certificate(text, password)))
    assert all("client_assertion" in asked for asked in authority.asked)


def by_certificate(text: str, password: str = "") -> Certificate:
    return Certificate(
        certificate_tenant_id=TENANT,
        certificate_client_id=CLIENT,
        certificate=SecretStr(text),
        certificate_password=SecretStr(password),
    )


def test_a_certificate_of_somebody_else_is_refused(
    secure: Azurite,
    authority: Identities,
    certificate: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("b", key_type=trustme.KeyType.RSA)
    authority.certificate = other.cert_chain_pems[0].bytes()
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", authority.authority)
    with pytest.raises(AuthenticationFailed, match="invalid_client"):
        on(secure, by_certificate((certificate[1] + certificate[0]).decode())).list_objects()


def test_a_certificate_that_is_none_is_refused_and_not_shown(
    certificate: tuple[bytes, bytes],
) -> None:
    public, private = certificate
    locked = load_pem_private_key(private, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode())
    )
    plain = load_pem_private_key(private, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for text, password in (
        ("/nowhere/app.pem", ""),
        (private.decode()[40:], ""),
        (private.decode(), ""),
        (public.decode(), ""),
        ((locked + public).decode(), ""),
        ((locked + public).decode(), "wrong-password"),
        ((plain + public).decode(), "password-without-need"),
    ):
        with pytest.raises(ConfigurationError, match="The sign-in by certificate cannot be") as no:
            token_credential(by_certificate(text, password))
        shown = str(no.value)
        assert private.decode()[100:140] not in shown
        assert not password or password not in shown


# -- file systems of fsspec -------------------------------------------------------------------------


def test_a_file_system_of_blobs_signs_in_by_a_token_in_another_process(
    secure: Azurite, authority: Identities, tmp_path: Path
) -> None:
    """aiohttp reads whom to trust when it is imported, so this process cannot."""
    datastore = on(secure, by_secret(authority_url=authority.authority))
    fs, path = datastore.filesystem(), datastore.filesystem_path
    (tmp_path / "fs").write_bytes(pickle.dumps((fs, path("x"))))
    program = "import pickle, sys; fs, path = pickle.load(open(sys.argv[1], 'rb')); fs.pipe_file(path, b'data')"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "fs")], check=True)
    assert {asked["client_id"] for asked in authority.asked} == {CLIENT}
    assert datastore.read_path("x") == b"data"


# -- identities of machines -------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["app_service", "virtual_machine"])
@pytest.mark.parametrize(
    "named", ["", USER_ASSIGNED, RESOURCE_ID], ids=["system", "id", "resource"]
)
def test_a_machine_signs_in_by_its_managed_identity(
    secure: Azurite,
    authority: Identities,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    named: str,
) -> None:
    for key, value in getattr(authority, machine)().items():
        monkeypatch.setenv(key, value)
    use(on(secure, ManagedIdentity(managed_identity_id=named)))
    for asked in authority.asked:
        assert asked["resource"] == "https://storage.azure.com"
        assert {*asked.values()} & {USER_ASSIGNED, RESOURCE_ID} == ({named} if named else set())


def test_an_identity_that_the_machine_has_not_says_so(
    secure: Azurite, authority: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in authority.app_service().items():
        monkeypatch.setenv(key, value)
    with pytest.raises(AuthenticationFailed, match="failed before it was asked"):
        on(secure, ManagedIdentity(managed_identity_id=NOBODY)).list_objects()


@pytest.mark.parametrize("given", ["in the block", "in the environment"])
def test_a_pod_signs_in_by_its_workload_identity(
    secure: Azurite,
    authority: Identities,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    given: str,
) -> None:
    (tmp_path / "token").write_text(FEDERATED)
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", authority.authority)
    auth = WorkloadIdentity(
        workload_tenant_id=TENANT,
        workload_client_id=CLIENT,
        federated_token_file=str(tmp_path / "token"),
    )
    if given == "in the environment":
        auth = WorkloadIdentity()
        monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
        monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    use(on(secure, auth))
    assert {asked["client_assertion"] for asked in authority.asked} == {FEDERATED}


@pytest.mark.usefixtures("authority")
def test_a_workload_identity_without_a_pod_says_what_is_missing(secure: Azurite) -> None:
    with pytest.raises(ConfigurationError, match="'tenant_id', 'client_id', 'token_file_path'"):
        on(secure, WorkloadIdentity()).list_objects()


def test_the_default_chain_finds_what_the_machine_has(
    secure: Azurite, authority: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in authority.app_service().items():
        monkeypatch.setenv(key, value)
    use(on(secure, Identity()))
    use(on(secure, Identity(identity_client_id=USER_ASSIGNED)))


def test_who_is_signed_in_by_the_azure_cli_is_signed_in(
    secure: Azurite, authority: Identities, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`az` is a program that gives what the real one is documented to print."""
    program, ends = tmp_path / "az", int(time.time()) + 3600
    answer = (
        f'{{"accessToken": "{authority.token("https://storage.azure.com")}", "expires_on": {ends}}}'
    )
    program.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    use(on(secure, AzureCli(cli_tenant_id=TENANT)))
    asked = (tmp_path / "asked").read_text()
    assert "account get-access-token" in asked
    assert "--resource https://storage.azure.com" in asked
    assert f"--tenant {TENANT}" in asked


def test_a_machine_without_the_azure_cli_says_so(
    secure: Azurite, authority: Identities, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AuthenticationFailed, match="Azure CLI not found"):
        on(secure, AzureCli()).list_objects()


# -- long stages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["application", "machine"])
def test_a_token_that_ends_during_a_stage_is_renewed(
    secure: Azurite, authority: Identities, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    authority.expires_in = 1
    auth: AzureAuth = by_secret(authority_url=authority.authority)
    if way == "machine":
        auth = ManagedIdentity()
        for key, value in authority.app_service().items():
            monkeypatch.setenv(key, value)
    with on(secure, auth).open_store() as store:
        latest = time.monotonic() + 120
        while len(authority.asked) < 3:
            store.check_root()
            assert time.monotonic() < latest, "the token was never renewed"
        store.check_root()


# -- clouds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("core.windows.net", None),
        ("core.chinacloudapi.cn", "login.chinacloudapi.cn"),
        ("core.usgovcloudapi.net", "login.microsoftonline.us"),
        ("https://acme.blob.core.usgovcloudapi.net/", "login.microsoftonline.us"),
        ("https://data.example.com", None),
        ("127.0.0.1:10000", None),
    ],
)
def test_the_endpoint_tells_where_tokens_are_asked_for(endpoint: str, host: str | None) -> None:
    assert authority_options(endpoint) == ({"authority": host} if host else {})


def test_an_authority_that_was_named_goes_first_and_may_be_a_private_one() -> None:
    china = "core.chinacloudapi.cn"
    public = "https://login.microsoftonline.com"
    assert authority_options(china, f"{public}/") == {"authority": public}
    assert authority_options(china, f"{public}/{TENANT}") == {"authority": public}
    assert authority_options("local.azurestack.external", "login.local.azurestack.external") == {
        "authority": "https://login.local.azurestack.external",
        "disable_instance_discovery": True,
    }


# -- connection strings -----------------------------------------------------------------------------

KEY = "c2VjcmV0LXRoYXQtbm9ib2R5LW1heS1zZWU="
SAS = "sv=2024-11-04&sp=rl&sig=c2VjcmV0LXRoYXQtbm9ib2R5"


def connected(text: str, **place: Any) -> AzureBlobDatastore:
    values: dict[str, Any] = {"account_name": "account1", "container_name": "data", **place}
    return AzureBlobDatastore(**values, auth=ConnectionString(connection_string=SecretStr(text)))


def test_a_connection_string_opens_the_account_that_it_names(
    secure: Azurite, authority: Any
) -> None:
    text = (
        f"DefaultEndpointsProtocol=https;AccountName={secure.account};AccountKey={secure.key};"
        f"BlobEndpoint={secure.url};QueueEndpoint=https://127.0.0.1:1/{secure.account};"
    )
    named = on(secure, AccountKey(account_key=SecretStr(secure.key)))
    made = connected(text, account_name=secure.account, container_name=named.container_name)
    assert made.url == named.url
    use(made)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (f"AccountName=account1;AccountKey={KEY}", "https://account1.blob.core.windows.net"),
        (
            f"DefaultEndpointsProtocol=https;AccountName=account1;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn",
            "https://account1.blob.core.chinacloudapi.cn",
        ),
        (
            f"BlobEndpoint=https://account1.blob.core.windows.net/;SharedAccessSignature={SAS}",
            "https://account1.blob.core.windows.net",
        ),
        (
            f" AccountName=account1 ;\n AccountKey={KEY};FileEndpoint=https://account1.file.core.usgovcloudapi.net/ ",
            "https://account1.blob.core.usgovcloudapi.net",
        ),
        (
            f"AccountName=account1;AccountKey={KEY};BlobEndpoint=https://data.example.com",
            "https://data.example.com",
        ),
    ],
)
def test_a_connection_string_tells_the_address(text: str, url: str) -> None:
    made = connected(text)
    assert made.account_url == url
    assert KEY not in f"{made!r} {made.model_dump_json()}"
    again = AzureBlobDatastore(**{**made.model_dump(), "auth": made.auth})
    assert again.model_dump() == made.model_dump()


def test_the_emulators_own_connection_string_needs_no_more() -> None:
    made = connected("UseDevelopmentStorage=true", account_name="devstoreaccount1")
    assert made.account_url == "http://127.0.0.1:10000/devstoreaccount1"
    assert made._signed_in()["account_key"].startswith("Eby8vdM02")


def test_a_connection_string_signs_by_its_sas_where_it_has_no_key() -> None:
    text = f"BlobEndpoint=https://account1.blob.core.windows.net;SharedAccessSignature={SAS}"
    assert connected(text)._signed_in() == {"account_name": "account1", "sas_token": SAS}


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (f"AccountName=other;AccountKey={KEY}", {}, "is of the account 'other', and .* 'account1'"),
        (
            f"AccountName=account1;AccountKey={KEY}",
            {"endpoint": "core.chinacloudapi.cn"},
            "is for https://account1.blob.core.windows.net, and the endpoint .*chinacloudapi",
        ),
        (f"AccountKey={KEY}", {}, "it has no AccountName"),
        ("AccountName=account1", {}, "neither AccountKey nor SharedAccessSignature"),
        (KEY[:-1], {}, "no Name=Value"),
        (f"AccountName=account1;{KEY[:-1]}", {}, "no Name=Value"),
        (
            f"AccountName=account1;AccountKey={KEY};BlobEndpoint=https://x.example?{SAS}",
            {},
            "an endpoint in it is no address alone",
        ),
        (
            f"DefaultEndpointsProtocol=http;AccountName=account1;AccountKey={KEY}",
            {},
            "would travel to .* in clear",
        ),
    ],
)
def test_a_connection_string_that_is_wrong_says_how_and_is_not_shown(
    text: str, place: dict[str, str], says: str
) -> None:
    with pytest.raises(ValidationError, match=says) as refused:
        connected(text, **place)
    assert KEY[:12] not in str(refused.value)
    assert SAS[-12:] not in str(refused.value)


# -- as blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [ManagedIdentity, WorkloadIdentity, AzureCli])
def test_a_way_that_is_crossed_out_is_refused(way: Any) -> None:
    key = next(iter(way.model_fields))
    with pytest.raises(ValidationError, match="was crossed out"):
        way(**{key: False})


def test_secrets_of_a_sign_in_are_masked_from_then_on(certificate: tuple[bytes, bytes]) -> None:
    text = (certificate[1] + certificate[0]).decode()
    token_credential(by_certificate(text))
    assert certificate[1].decode()[100:160] not in scrub(f"leaked: {text}")


@pytest.mark.parametrize(
    "saved",
    [
        {"tenant_id": "t", "client_id": "c", "client_secret": SECRET},
        {"identity_client_id": "x"},
        {"sas_token": SAS},
        {"account_key": KEY},
        {"anonymous": True},
        {},
    ],
    ids=str,
)
def test_what_was_saved_before_there_were_more_ways_still_loads(saved: dict[str, Any]) -> None:
    kinds = (ServicePrincipal, Identity, SasToken, AccountKey)
    made = AzureBlobDatastore.model_validate(
        {"account_name": "account1", "container_name": "data", "auth": saved}
    )
    expected = next(
        (kind for kind in kinds if saved and set(saved) <= set(kind.model_fields)), None
    )
    assert type(made.auth).__name__ == (
        expected.__name__ if expected else ("Anonymous" if saved else "Identity")
    )

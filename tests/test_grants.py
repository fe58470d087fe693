"""`grant_workspace_access`: the roles are assigned where that can be, else the commands are printed."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from servers.identity import (
    CLIENT,
    OBJECT,
    SECRET,
    TENANT,
    Identities,
    Tls,
    identities,
    make_tls,
)
from servers.wire import ok, says, wire

from prefect_datastores import AccountKey, AzureBlobDatastore, Identity, ServicePrincipal
from prefect_datastores.datastores.auth import AzureAuth
from prefect_datastores.datastores.grants import commands, grant_access

SCOPE = (
    "/subscriptions/sub/resourceGroups/group/providers/Microsoft.Storage/storageAccounts/account1"
)
ROLES = {
    "Reader": "acdd72a7-3385-48ef-bd42-f606fba81ae7",
    "Storage Blob Data Contributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
}
BY_SECRET = ServicePrincipal(tenant_id=TENANT, client_id=CLIENT, client_secret=SecretStr(SECRET))
BY_KEY = AccountKey(account_key=SecretStr("a2V5LXRoYXQtbm9ib2R5LW1heS1zZWU="))


def datastore(auth: AzureAuth, **more: Any) -> AzureBlobDatastore:
    return AzureBlobDatastore(
        account_name="account1",
        container_name="data",
        auth=auth,
        subscription_id="sub",
        resource_group="group",
        **more,
    )


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """An authority of certificates that nobody but the tests here trusts."""
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def caller(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identities]:
    """An authority that knows the caller, whom the environment names."""
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(tls.authority))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with identities(tls.context()) as known:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", known.authority)
        monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
        monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)
        monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
        yield known


def answer(status: str, **content: Any) -> bytes:
    return ok(json.dumps(content).encode(), "Content-Type: application/json", status=status)


@pytest.mark.parametrize(
    "auth", [BY_SECRET, BY_KEY, Identity()], ids=lambda way: type(way).__name__
)
def test_the_roles_are_assigned_by_the_management_sdk(
    caller: Identities, tls: Tls, auth: AzureAuth, caplog: pytest.LogCaptureFixture
) -> None:
    """To who signs in; of a datastore that a key opens, to the machine's identity."""
    with wire(says(answer("201 Created", id="x", name="x")), tls=tls.context()) as heard:
        url = f"https://127.0.0.1:{heard.port}"
        with caplog.at_level(logging.INFO):
            assert grant_access(datastore(auth), management_url=url)
    assert f"is granted to {OBJECT}" in caplog.text
    asked = [head.split(" ")[:2] for head in heard.heads]
    assert [method for method, _ in asked] == ["PUT", "PUT"]
    place = f"{SCOPE}/providers/Microsoft.Authorization/roleAssignments/"
    assert all(path.startswith(place) and "?api-version=" in path for _, path in asked)
    for body, role_id in zip(heard.bodies, ROLES.values(), strict=True):
        assert json.loads(body)["properties"] == {
            "roleDefinitionId": f"/subscriptions/sub/providers/Microsoft.Authorization/roleDefinitions/{role_id}",
            "principalId": OBJECT,
            "principalType": "ServicePrincipal",
        }
    assert f"{url}/.default" in {form["scope"].split()[0] for form in caller.asked}


def test_a_grant_that_is_made_again_is_the_same(caller: Identities, tls: Tls) -> None:
    code = {"code": "RoleAssignmentExists", "message": "The role assignment already exists."}
    with wire(says(answer("409 Conflict", error=code)), tls=tls.context()) as heard:
        for _ in range(2):
            url = f"https://127.0.0.1:{heard.port}"
            assert grant_access(datastore(Identity()), management_url=url)
    paths = [head.split(" ")[1] for head in heard.heads]
    assert paths[:2] == paths[2:]


def test_a_caller_who_may_not_is_told_what_an_owner_runs(
    caller: Identities, tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    code = {
        "code": "AuthorizationFailed",
        "message": "The client does not have authorization to perform action",
    }
    with wire(says(answer("403 Forbidden", error=code)), tls=tls.context()) as heard:
        url = f"https://127.0.0.1:{heard.port}"
        assert not grant_access(datastore(BY_SECRET), management_url=url)
    assert "the role 'Reader' could not be assigned ((AuthorizationFailed)" in caplog.text
    for command in commands(datastore(BY_SECRET), None):
        assert command.partition("--role ")[2] in caplog.text
    assert (
        f"--assignee-object-id {OBJECT} --assignee-principal-type ServicePrincipal" in caplog.text
    )
    assert SECRET not in caplog.text


def test_without_an_identity_the_commands_have_a_gap_to_fill(
    tls: Tls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Azure CLI
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    assert not grant_access(datastore(BY_KEY))
    assert "this machine has no identity" in caplog.text
    lines = [line.strip() for line in caplog.text.splitlines() if line.startswith("  az ")]
    assert [shlex.split(line) for line in lines] == [
        [
            *("az", "role", "assignment", "create", "--assignee"),
            "<object id of the identity that runs flows>",
            *("--role", role, "--scope", SCOPE),
        ]
        for role in ROLES
    ]


def test_without_the_extra_the_message_names_it(
    caller: Identities, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "azure.mgmt.authorization", None)
    assert not grant_access(datastore(BY_SECRET))
    assert "the extra prefect-datastores[azure-mgmt] is not installed" in caplog.text
    assert OBJECT in caplog.text

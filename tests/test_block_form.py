"""A block is made in Python, by CLI, and in the form of Prefect's pages, and is the same in all three."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from azure.storage.blob import ContainerClient
from block_form import Form
from playwright.sync_api import FloatRect, expect
from pydantic import SecretStr
from servers.azurite import Azurite
from servers.prefect_server import PrefectServer

from prefect_datastores import (
    AccountKey,
    Anonymous,
    AzureBlobDatastore,
    AzureCli,
    AzureDataLakeGen2Datastore,
    AzureFileDatastore,
    Certificate,
    ConnectionString,
    Datastore,
    Identity,
    LocalDatastore,
    ManagedIdentity,
    SasToken,
    ServicePrincipal,
    WorkloadIdentity,
)
from prefect_datastores.datastores.auth import AzureAuth

if TYPE_CHECKING:
    from browser import PrefectPage

pytest_plugins = ["browser"]
pytestmark = [pytest.mark.usefixtures("prefect_api"), pytest.mark.xdist_group("block_form")]

SECRET = "c2VjcmV0LXRoYXQtbm9ib2R5LW1heS1zZWU="
CONNECTION = f"AccountName=account1;AccountKey={SECRET}"
LINES = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"
ONE_LINE = LINES.replace("\n", " ")
BLOB, LOCAL = "azure-blob-datastore", "local-datastore"


@dataclass(frozen=True)
class Tab:
    """A way to sign in: what a person types in its tab, and what is to come of it."""

    title: str
    auth: AzureAuth
    typed: dict[str, str] = field(default_factory=dict)


TABS = [
    Tab("Identity", Identity()),
    Tab("Account key", AccountKey(account_key=SecretStr(SECRET)), {"Account key": SECRET}),
    Tab(
        "SAS token", SasToken(sas_token=SecretStr(f"sig={SECRET}")), {"SAS token": f"sig={SECRET}"}
    ),
    Tab(
        "Service principal",
        ServicePrincipal(tenant_id="tenant", client_id="me", client_secret=SecretStr(SECRET)),
        {"Tenant id": "tenant", "Client id": "me", "Client secret": SECRET},
    ),
    Tab("Anonymous", Anonymous()),
    Tab(
        "Connection string",
        ConnectionString(connection_string=SecretStr(CONNECTION)),
        {"Connection string": CONNECTION},
    ),
    Tab(
        "Certificate",
        Certificate(
            certificate_tenant_id="tenant",
            certificate_client_id="me",
            certificate=SecretStr(ONE_LINE),
            certificate_password=SecretStr(SECRET),
        ),
        # A field of one line makes spaces of the line breaks in what is pasted.
        {"Tenant id": "tenant", "Client id": "me", "Certificate": LINES, "Password": SECRET},
    ),
    Tab("Managed id", ManagedIdentity()),
    Tab(
        "Workload id",
        WorkloadIdentity(workload_client_id="me"),
        {"Client id": "me"},
    ),
    Tab("Azure CLI", AzureCli(cli_tenant_id="tenant"), {"Tenant id": "tenant"}),
]
BY_TITLE = pytest.mark.parametrize("tab", TABS, ids=lambda tab: tab.title)


@pytest.fixture
def unique() -> str:
    """A name that no other test has."""
    return f"form-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def form(prefect_page: PrefectPage) -> Form:
    """A form in a tab of its own."""
    return Form(prefect_page)


def blob_of(name: str) -> AzureBlobDatastore:
    loaded = Datastore.get(name)
    assert type(loaded) is AzureBlobDatastore
    return loaded


def use(datastore: Any, folder: Path) -> None:
    """Upload a file, find it, and fetch it again."""
    (folder / "up").mkdir()
    (folder / "up/one.txt").write_text("one")
    datastore.upload(folder / "up", target_path="data")
    assert [info.name for info in datastore.list_objects()] == ["data/one.txt"]
    datastore.download(folder / "down", prefix="data")
    assert (folder / "down/data/one.txt").read_text() == "one"


# -- the catalog ------------------------------------------------------------------------------------


KINDS: list[Any] = [
    AzureBlobDatastore,
    AzureDataLakeGen2Datastore,
    AzureFileDatastore,
    LocalDatastore,
]


def test_the_catalog_has_these_kinds_of_datastore_and_no_other(prefect_page: PrefectPage) -> None:
    prefect_page.open("/blocks/catalog")
    main = prefect_page.page.locator("main")
    entries = main.locator("[data-slot=card]").filter(has=prefect_page.page.locator("img, h4"))
    expect(entries.filter(has_text="Local Datastore")).to_be_visible()
    main.get_by_placeholder("Search").fill("datastore")
    expect(entries.filter(has_text="Local File System")).to_have_count(0)
    prefect_page.picture("catalog", {"x": 0, "y": 0, "width": 1500, "height": 500})
    for kind in KINDS:
        entry = entries.filter(has_text=kind.get_block_type_name())
        expect(entry.locator("img")).to_have_attribute("src", str(kind._logo_url))
        expect(entry).to_contain_text(kind.get_description())
    names = [kind.get_block_type_name() for kind in KINDS]
    expect(entries).to_have_count(len(names), timeout=5_000)
    expect(entries).to_contain_text(names)


@pytest.mark.parametrize("kind", KINDS)
def test_the_catalog_describes_each_kind(kind: Any, prefect_page: PrefectPage) -> None:
    name, slug = kind.get_block_type_name(), kind.get_block_type_slug()
    page, main = prefect_page.page, prefect_page.page.locator("main")
    prefect_page.open(f"/blocks/catalog/{slug}")
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(main.locator("img")).to_have_attribute("src", str(kind._logo_url))
    expect(main).to_contain_text(kind.get_description())
    documentation = page.get_by_role("link", name="Documentation")
    expect(documentation).to_have_attribute("href", str(kind._documentation_url))
    expect(main).to_contain_text(f"from prefect_datastores import {kind.__name__}")
    prefect_page.picture(f"catalog-{slug}")
    page.get_by_role("link", name="Create").click()
    expect(page).to_have_url(re.compile(f"/v2/blocks/catalog/{slug}/create$"))


# -- made in the form -------------------------------------------------------------------------------


def test_the_form_asks_for_the_place_first_and_has_a_tab_for_each_way_to_sign_in(
    form: Form,
) -> None:
    form.create(BLOB)
    form.tab.picture("form-empty")
    expect(form.form.get_by_role("tab")).to_have_text([tab.title for tab in TABS])
    expect(form.form.get_by_role("tab", selected=True)).to_have_text("Identity")
    labels = [
        text.removesuffix(" (Optional)") for text in form.form.locator("label").all_inner_texts()
    ]
    assert labels[:4] == ["Name", "Account", "Container", "Sign in with"]
    # A default in the form would be written over what was saved, when the block is edited.
    for field_ in form.form.locator("input, textarea").all():
        expect(field_).to_have_value("")

    form.fill(Name="models", Account="acme", Container="models")
    panel = form.sign_in("Account key", {"Account key": SECRET})
    expect(form.field("Account key", panel)).to_have_attribute("type", "password")
    expect(form.form.get_by_role("tab", selected=True)).to_have_text("Account key")
    expect(form.field("Account")).to_have_value("acme")
    form.tab.page.set_viewport_size({"width": 1280, "height": 1300})
    for tab in form.form.get_by_role("tab").all():  # they stand in a row that does not wrap
        box = tab.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] < 1280
    form.tab.page.set_viewport_size({"width": 1640, "height": 1300})
    form.field("Account key", panel).blur()
    edges = form.form.bounding_box()
    assert edges is not None
    margin = 12
    left, top = edges["x"] - margin, edges["y"] - margin
    width, height = edges["width"] + 2 * margin, edges["height"] + 2 * margin
    clip: FloatRect = {"x": left, "y": top, "width": width, "height": height}
    form.tab.picture("block-form", clip)


@BY_TITLE
def test_each_way_to_sign_in_is_made_shown_and_edited_without_loss(
    tab: Tab, form: Form, unique: str
) -> None:
    form.create(BLOB)
    form.fill(Name=unique, Account="account1", Container="data")
    if tab.title != "Identity":  # the default is left alone
        form.sign_in(tab.title, tab.typed)
    slug = tab.title.lower().replace(" ", "-")
    form.tab.picture(f"form-{slug}")
    block = form.save()
    made = blob_of(unique)
    assert type(made.auth) is type(tab.auth)
    assert made.auth == tab.auth
    assert (made.account_name, made.container_name) == ("account1", "data")
    assert (made.protocol, made.endpoint) == ("https", "core.windows.net")

    expect(form.tab.page.locator("main")).to_contain_text("account1")
    form.tab.picture(f"saved-{slug}")
    assert SECRET not in form.tab.everything()

    form.edit()
    expect(form.form.get_by_role("tab", selected=True)).to_have_text(tab.title)
    form.tab.picture(f"edit-{slug}")
    assert SECRET not in form.tab.everything()
    form.fill(Container="other")
    assert form.save() == block
    edited = blob_of(unique)
    assert edited.auth == tab.auth
    assert edited.model_dump() == {**made.model_dump(), "container_name": "other"}


def test_a_secret_outlives_an_edit_after_a_reload(form: Form, unique: str) -> None:
    """A page that was just loaded has the block's values before the form's scripts."""
    tab = TABS[3]
    form.create(BLOB)
    form.fill(Name=unique, Account="account1", Container="data")
    form.sign_in(tab.title, tab.typed)
    form.save()
    form.edit().reload()
    expect(form.form.get_by_role("tab", selected=True)).to_have_text(tab.title)
    form.fill(Container="other")
    form.save()
    assert (blob_of(unique).container_name, blob_of(unique).auth) == ("other", tab.auth)


def test_another_way_to_sign_in_is_chosen_by_editing(form: Form, unique: str) -> None:
    form.create(BLOB)
    form.fill(Name=unique, Account="account1", Container="data")
    form.sign_in("Account key", {"Account key": SECRET})
    form.save()
    for tab in (TABS[3], TABS[0], TABS[2], TABS[4]):
        form.edit()
        form.sign_in(tab.title, tab.typed)
        form.save()
        assert blob_of(unique).auth == tab.auth


def test_a_way_to_sign_in_is_chosen_after_looking_at_all(form: Form, unique: str) -> None:
    form.create(BLOB)
    form.fill(Name=unique, Account="account1", Container="data")
    for tab in (*TABS, *reversed(TABS[:-1])):
        form.sign_in(tab.title, tab.typed)
    form.sign_in("SAS token", {"SAS token": SECRET})
    form.save()
    assert blob_of(unique).auth == SasToken(sas_token=SecretStr(SECRET))


def test_a_local_datastore_made_in_the_form_moves_data(
    form: Form, unique: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    form.create(LOCAL)
    form.tab.picture("form-local-empty")
    form.fill(Name=unique, Folder=str(root))
    form.save()
    expect(form.tab.page.locator("main")).to_contain_text(str(root))
    form.tab.picture("saved-local")
    loaded = Datastore.get(unique)
    assert type(loaded) is LocalDatastore
    assert loaded.root == str(root)
    use(loaded, tmp_path)


# -- made elsewhere, looked at in the pages ------------------------------------------------------------


def open_by_name(tab: PrefectPage, name: str) -> None:
    """Find a block in the list of blocks, and open its page."""
    tab.open("/blocks")
    tab.page.get_by_placeholder("Search").fill(name)
    expect(tab.page).to_have_url(re.compile(f"blockName={name}"))  # the list is made anew then
    tab.page.get_by_role("link", name=name, exact=True).click()
    expect(tab.page).to_have_url(re.compile(r"/blocks/block/[0-9a-f-]{36}$"))


def test_a_block_saved_in_python_is_shown_without_its_secret(
    prefect_page: PrefectPage, unique: str
) -> None:
    auth = TABS[3].auth
    made: Any = AzureBlobDatastore(account_name="account1", container_name="data", auth=auth)
    made.save(unique, _sync=True)
    open_by_name(prefect_page, unique)
    main = prefect_page.page.locator("main")
    expect(main).to_contain_text("account1")
    expect(main).to_contain_text("Azure Blob Datastore")
    prefect_page.picture("page-of-python-service-principal")
    assert "account1" in prefect_page.everything()
    assert SECRET not in prefect_page.everything()


def cli(prefect_api: PrefectServer, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect_datastores.cli", *arguments],
        env={**os.environ, "PREFECT_API_URL": prefect_api.api_url, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_blob_datastore_of_the_command_line_is_shown_and_edited_in_the_form(
    form: Form,
    prefect_api: PrefectServer,
    unique: str,
    azurite: Azurite,
    container: ContainerClient,
    tmp_path: Path,
) -> None:
    address = ("--protocol", "http", "--endpoint", f"{azurite.host}:{azurite.port}")
    place = ("--account", azurite.account, "--container", container.container_name)
    key = {"PREFECT_DATASTORES_ACCOUNT_KEY": azurite.key}
    cli(prefect_api, "register", "azure-blob", unique, *place, *address, **key)
    open_by_name(form.tab, unique)
    expect(form.tab.page.locator("main")).to_contain_text(container.container_name)
    form.tab.picture("page-of-cli-azure-blob")
    assert azurite.key not in form.tab.everything()

    form.edit()
    expect(form.form.get_by_role("tab", selected=True)).to_have_text("Account key")
    expect(form.field("Endpoint")).to_have_value(f"{azurite.host}:{azurite.port}")
    form.fill(**{"Resource group": "group"})
    form.save()
    edited = blob_of(unique)
    assert edited.resource_group == "group"
    use(edited, tmp_path)

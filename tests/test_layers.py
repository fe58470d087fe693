"""One direction of imports, and the public names."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "prefect_datastores"

# Each may import what stands above it; what stands in one line, each other.
LAYERS = [
    {
        "errors",
        "redaction",
        "names",
        "circles",
        "disk",
        "files",
        "forms",
        "part_files",
        "processes",
        "renames",
        "workspaces",
    },
    {"stores"},
    {"staging"},
    {"scripts", "testing", "filesystems", "mounting"},
    {
        *("references", "datastores", "compute", "display", "settings", "slots"),
        *("result_table", "results_page", "events", "assets"),
    },
    {
        *(
            "linked",
            "mounts",
            "checkpoints",
            "tasks",
            "stage",
            "plans",
            "runs",
            "transfers",
            "estimator_spec",
        ),
        *("deployments", "supervision"),
    },
    {"estimator", "estimator_run", "estimator_parameters"},
    {"azureml", "cli", "demo", "deployed", "submitted", ""},
]
KNOW_NO_PREFECT = LAYERS[0] | LAYERS[1] | LAYERS[2] | LAYERS[3]
MAY_IMPORT_AZURE = ("stores/", "datastores/credentials.py", "datastores/grants.py")

PUBLIC = {
    *("AccountKey", "Anonymous", "Identity", "SasToken", "ServicePrincipal"),
    *("AzureCli", "Certificate", "ConnectionString", "ManagedIdentity", "WorkloadIdentity"),
    *("AnyDatastore", "AzureBlobDatastore", "AzureFileDatastore", "LocalDatastore", "Datastore"),
    "AzureDataLakeGen2Datastore",
    *("DataReference", "DatastoreError", "Estimator"),
    *("stage", "staged", "download", "mount", "upload"),
}

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
# What runs as a program of its own, not as a part of the package.
PROGRAMS = {name for name in MODULES if name.startswith("demo/source/")}


def room(module: str) -> str:
    """The part of the package that a file stands in; "" is the package itself."""
    first = module.split("/", maxsplit=1)[0].removesuffix(".py")
    return "" if first == "__init__" else first


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(module: str, *, types: bool = True) -> Iterator[str]:
    """Every module that a file imports, wherever in it the import stands; types or no types."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    unwanted = {
        id(below)
        for node in ast.walk(tree)
        if for_types_only(node) and not types
        for below in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unwanted:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(module: str) -> set[str]:
    """The parts of the package that a file imports when it runs."""
    parts = [name.split(".") for name in imports(module, types=False)]
    known = set().union(*LAYERS)
    return {name[1] for name in parts if name[0] == PACKAGE.name and name[1:2] and name[1] in known}


def layer(name: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if name in rooms)


def test_every_module_stands_in_a_layer() -> None:
    assert {room(module) for module in MODULES} <= set().union(*LAYERS)
    assert set().union(*LAYERS) - {""} <= {room(module) for module in MODULES}


@pytest.mark.parametrize("module", sorted(set(MODULES) - PROGRAMS))
def test_a_module_imports_nothing_above_its_layer(module: str) -> None:
    mine = layer(room(module))
    assert [name for name in rooms_of(module) if layer(name) > mine] == []


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in KNOW_NO_PREFECT])
def test_the_engines_know_no_prefect(module: str) -> None:
    assert [name for name in imports(module) if name.split(".")[0] == "prefect"] == []


@pytest.mark.parametrize(
    "module", [name for name in MODULES if not name.startswith(MAY_IMPORT_AZURE)]
)
def test_only_stores_and_sign_in_know_azure(module: str) -> None:
    assert [name for name in imports(module) if name.split(".")[0] == "azure"] == []


def fresh(code: str) -> object:
    """What a new interpreter prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def test_importing_the_package_imports_no_sdk() -> None:
    loaded = fresh(
        "import prefect_datastores\n"
        "print(json.dumps(sorted(name for name in sys.modules if 'prefect_datastores' in name"
        " or name.split('.')[0] in ('azure', 'adlfs', 'msal', 'fsspec_azure'))))"
    )
    assert isinstance(loaded, list)
    assert "prefect_datastores" in loaded
    assert [name for name in loaded if not name.startswith("prefect_datastores")] == []


def test_the_engines_run_without_prefect() -> None:
    loaded = fresh(
        "import types\n"
        "package = sys.modules['prefect_datastores'] = types.ModuleType('prefect_datastores')\n"
        f"package.__path__ = [{str(PACKAGE)!r}]\n"
        "import prefect_datastores.staging.download, prefect_datastores.staging.upload\n"
        "import prefect_datastores.stores.blob, prefect_datastores.stores.retry\n"
        "import prefect_datastores.scripts.child\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    assert isinstance(loaded, list)
    assert "prefect_datastores" in loaded
    assert not {"prefect", "azure", "pydantic", "requests"} & set(loaded)


def test_the_public_names_are_the_documented_ones() -> None:
    import prefect_datastores

    assert set(prefect_datastores.__all__) == PUBLIC
    assert sorted(prefect_datastores.__all__) == sorted(PUBLIC)
    assert all(hasattr(prefect_datastores, name) for name in PUBLIC)

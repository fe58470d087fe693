"""References are values: they say which data, and how; they hold no secret and open nothing."""

import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from prefect_datastores import AccountKey, AzureBlobDatastore, DataReference, LocalDatastore
from prefect_datastores.datastores.registry import resolve
from prefect_datastores.errors import ConfigurationError, NameCollision, UnsafeName
from prefect_datastores.references import check_references

RAW = DataReference(datastore="raw")

EVERY_KIND = [
    RAW,
    RAW.path("mnist"),
    RAW.path("mnist", data_reference_name="digits"),
    RAW.path("mnist").as_mount(fallback="download"),
    RAW.path("mnist").as_download(
        "data", "fail", include=["*.png"], exclude=["b/**"], allow_empty=True
    ),
    RAW.path("out").as_upload("outputs", True, include=["*.pkl"], when="always", allow_empty=True),
]


def test_path_and_as_methods_return_copies() -> None:
    before = RAW.model_dump()
    made = [RAW.path("a"), RAW.as_download("b"), RAW.as_mount(), RAW.as_upload("c")]
    assert RAW.model_dump() == before
    assert all(copy is not RAW for copy in made)
    assert [copy.mode for copy in made] == ["mount", "download", "mount", "upload"]


def test_a_reference_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RAW.mode = "upload"  # type: ignore[misc]
    assert RAW.mode == "mount"


@pytest.mark.parametrize("reference", EVERY_KIND, ids=str)
def test_a_reference_survives_json(reference: DataReference) -> None:
    text = reference.model_dump_json()
    assert DataReference.model_validate_json(text) == reference
    assert DataReference.model_validate(json.loads(text)) == reference


def test_equal_references_are_one_key() -> None:
    same = {
        RAW.path("a"),
        RAW.path("./a"),
        RAW.path("/a/"),
        DataReference(datastore="RAW").path("a"),
    }
    assert same == {RAW.path("a")}
    assert hash(RAW.path("a")) == hash(RAW.path("./a"))
    assert RAW.path("a") != RAW.path("a").as_download()
    assert len(set(EVERY_KIND)) == len(EVERY_KIND)


def test_a_reference_in_a_string_is_the_variable_of_azure_ml() -> None:
    assert str(RAW) == "$AZUREML_DATAREFERENCE_raw"
    assert f"--data={RAW.path('mnist/train')}" == "--data=$AZUREML_DATAREFERENCE_raw_mnist_train"
    assert RAW.path("x", data_reference_name="Digits").variables() == (
        "AZUREML_DATAREFERENCE_Digits",
        "DATASTORE_DIGITS",
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", "raw"),
        ("/", "raw"),
        (".", "raw"),
        ("./", "raw"),
        ("mnist", "raw_mnist"),
        ("mnist/train", "raw_mnist_train"),
        ("Mnist_2", "raw_Mnist_2"),
    ],
)
def test_a_plain_path_reads_as_itself_in_the_name(path: str, name: str) -> None:
    assert RAW.path(path).name == name
    assert DataReference(datastore="raw", path_on_datastore=path).name == name


def test_paths_that_differ_in_a_sign_only_have_different_names() -> None:
    paths = ["day=1", "day-1", "day.1", "day 1", "day_1", "däy_1"]
    assert len({RAW.path(path).name for path in paths}) == len(paths)


def test_a_name_is_the_same_in_every_process() -> None:
    # A digest of the path, not Python's hash, which is another in every process.
    assert RAW.path("day=1/part.parquet").name == "raw_day_1_part_parquet_452f2c5f"


@pytest.mark.parametrize("spelling", ["bar", "./bar", "/bar", "bar/", ".//bar/.", "//bar"])
def test_all_spellings_of_a_place_are_one_place(spelling: str) -> None:
    assert RAW.path(spelling).path_on_datastore == "bar"
    assert DataReference(datastore="raw", path_on_datastore=spelling) == RAW.path("bar")
    assert RAW.path("foo").path(spelling) == RAW.path("foo/bar")
    assert RAW.as_download(spelling.lstrip("/")).path_on_compute == "bar"


@pytest.mark.parametrize("path", ["..", "../bar", "a/../b", "a/..", "./..", "a\\..\\b"])
def test_a_path_that_climbs_is_refused(path: str, tmp_path: Path) -> None:
    ways = [
        lambda: RAW.path(path),
        lambda: LocalDatastore(root=str(tmp_path)).path(path),
        lambda: RAW.as_download(path),
        lambda: RAW.as_upload(path),
    ]
    for way in ways:
        with pytest.raises(UnsafeName, match="is refused: it has") as refused:
            way()
        assert repr(path.removeprefix("./")) in str(refused.value)
    with pytest.raises(ValidationError, match="is refused: it has"):
        DataReference(datastore="raw", path_on_datastore=path)


@pytest.mark.parametrize("name", ["my-ref", "a b", "a.b", "ä", "$x"])
def test_a_name_that_no_shell_could_expand_is_refused(name: str, tmp_path: Path) -> None:
    for datastore in (RAW, LocalDatastore(root=str(tmp_path))):
        with pytest.raises(ConfigurationError, match="letters, digits and '_' only"):
            datastore.path("x", data_reference_name=name)


def test_an_absolute_path_on_compute_stays_as_it_is() -> None:
    assert RAW.as_download("/data/raw/").path_on_compute == "/data/raw"
    assert RAW.as_upload("/tmp/model.pkl").path_on_compute == "/tmp/model.pkl"


def test_the_options_of_a_download_are_kept() -> None:
    made = RAW.path("a").as_download(
        "data",
        "skip",
        include=["*.csv", "x/**"],
        exclude=["*.tmp"],
        allow_empty=True,
        keep_times=True,
        require_digest=True,
    )
    assert made.keep_times
    assert made.require_digest
    assert (made.path_on_compute, made.overwrite) == ("data", "skip")
    assert (made.include, made.exclude, made.allow_empty) == (("*.csv", "x/**"), ("*.tmp",), True)
    assert RAW.as_download().overwrite == "if_changed"
    assert not RAW.as_download().allow_empty
    assert not RAW.as_download().require_digest


def test_the_options_of_an_upload_are_kept() -> None:
    made = RAW.path("a").as_upload("model.pkl", "fail", exclude=["*.log"], when="failure")
    assert (made.path_on_compute, made.overwrite, made.exclude) == ("model.pkl", "fail", ("*.log",))
    assert made.when == "failure"
    assert RAW.as_upload().when == "success"


def test_another_mode_drops_the_options_of_the_first() -> None:
    made = RAW.as_download("data").as_mount()
    assert (made.mode, made.path_on_compute, made.fallback) == ("mount", "", "")
    assert RAW.as_mount(fallback="download").as_mount().fallback == ""
    assert RAW.as_download(include=["*.csv"]).as_upload("x").include == ()


@pytest.mark.parametrize(("given", "rule"), [(True, "replace"), (False, "skip"), ("fail", "fail")])
def test_overwrite_takes_the_booleans_of_azure_ml(given: bool | str, rule: str) -> None:
    assert RAW.as_download(overwrite=given).overwrite == rule
    assert RAW.as_upload(overwrite=given).overwrite == rule


def test_an_unknown_overwrite_rule_is_refused_by_name() -> None:
    for way in (RAW.as_download, RAW.as_upload):
        with pytest.raises(
            ConfigurationError, match=r"^overwrite='sometimes' is refused: use 'fail'"
        ):
            way(overwrite="sometimes")


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValidationError, match="mode"):
        DataReference(datastore="raw", mode="Download")
    with pytest.raises(ConfigurationError, match=r"^when='sometimes' is refused: .*'success'"):
        RAW.as_upload("x", when="sometimes")
    with pytest.raises(ConfigurationError, match=r"^fallback='copy' is refused: .*'download'"):
        RAW.as_mount(fallback="copy")
    with pytest.raises(ValidationError, match="account_key"):
        DataReference(datastore="raw", account_key="x")


def test_a_bad_datastore_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="The datastore name 'no spaces' is refused"):
        DataReference(datastore="no spaces")


def test_copies_of_a_reference_find_a_datastore_that_is_not_registered(tmp_path: Path) -> None:
    datastore = LocalDatastore(root=str(tmp_path))
    copies = [
        datastore.path("a").path("b").as_download(),
        datastore.as_download("x"),
        datastore.as_mount(fallback="download").path("c"),
        datastore.as_upload("y", when="always"),
    ]
    assert all(resolve(copy) is datastore for copy in copies)
    assert copies[0].datastore == datastore.name
    assert re.fullmatch(r"unregistered_[0-9a-f]{8}", datastore.name)
    assert str(tmp_path) not in copies[0].model_dump_json()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (RAW.as_download(), RAW.as_upload("out")),
        (RAW.path("a_b").as_download(), RAW.path("a/b").as_download()),
        (RAW.path("a").as_download(), DataReference(datastore="raw_a").as_download()),
        (RAW.path("foo").as_download(), RAW.path("Foo").as_download()),
        (RAW.path("a", "same").as_download(), RAW.path("b", "same").as_download()),
    ],
    ids=lambda reference: reference.uri,
)
def test_two_references_of_one_name_are_refused(one: DataReference, other: DataReference) -> None:
    with pytest.raises(NameCollision, match="Two references share the name") as refused:
        check_references([one, other])
    assert one.uri in str(refused.value)
    assert "data_reference_name=" in str(refused.value)
    check_references([one, other.path("", data_reference_name="other")])


def test_the_same_reference_twice_is_no_collision() -> None:
    check_references([RAW.path("a").as_download(), RAW.path("./a").as_download()])


def test_two_downloads_to_one_place_are_refused() -> None:
    one, other = RAW.path("a").as_download("data"), RAW.path("b").as_download("./data/")
    with pytest.raises(ConfigurationError, match=r"'raw:a' .* 'raw:b' .* would both be at 'data'"):
        check_references([one, other])
    check_references([one, RAW.path("b").as_download("data2")])


def test_one_result_may_be_uploaded_to_two_places() -> None:
    check_references([RAW.path("a").as_upload("out"), RAW.path("b").as_upload("out")])


PLACES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\\"), min_size=1, max_size=12),
    max_size=4,
).map("/".join)


@given(PLACES)
def test_every_name_is_a_variable_and_the_same_each_time(path: str) -> None:
    try:
        reference = RAW.path(path)
    except UnsafeName:
        assume(False)
    assert re.fullmatch(r"[A-Za-z0-9_]+", reference.name)
    assert re.fullmatch(r"\$AZUREML_DATAREFERENCE_[A-Za-z0-9_]+", str(reference))
    again = DataReference.model_validate_json(reference.model_dump_json())
    assert again.name == reference.name == RAW.path("./" + path).name


@given(PLACES, PLACES)
def test_two_places_have_two_names_or_are_refused_together(one: str, other: str) -> None:
    try:
        first, second = RAW.path(one), RAW.path(other)
    except UnsafeName:
        assume(False)
    collide = first != second and first.name.upper() == second.name.upper()
    if collide:
        with pytest.raises(NameCollision):
            check_references([first, second])
    else:
        check_references([first, second])
        assert first == second or set(first.variables()).isdisjoint(second.variables())


def test_places_that_lie_in_one_another_are_refused() -> None:
    outer = DataReference(datastore="a").as_download("data")
    inner = DataReference(datastore="b").as_download("data/sub")
    with pytest.raises(ConfigurationError, match="would lie in one another"):
        check_references([outer, inner])
    check_references([outer, DataReference(datastore="b").as_download("database")])


def test_a_path_on_compute_that_names_nothing_is_refused() -> None:
    for path in (".", "/", "./"):
        with pytest.raises(ConfigurationError, match="name a file or folder"):
            DataReference(datastore="a").as_upload(path)


def test_a_pickled_reference_has_no_secret() -> None:
    store = AzureBlobDatastore(
        account_name="acme",
        container_name="data",
        auth=AccountKey(account_key=SecretStr("very-secret-key")),
    )
    reference = store.path("x").as_download()
    pickled = pickle.dumps(reference)
    assert b"very-secret-key" not in pickled
    assert pickle.loads(pickled).model_dump() == reference.model_dump()

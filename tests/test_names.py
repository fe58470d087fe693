"""Names: what is refused, what is one place, what would be one file, and what a glob takes."""

import fnmatch
import itertools
import pickle
import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_datastores.errors import ConfigurationError, NameCollision, UnsafeName
from prefect_datastores.names import (
    MAX_COMPONENT_BYTES,
    MAX_OBJECT_NAME,
    NameCheck,
    NameRules,
    ObjectName,
    RelativePath,
    account_name,
    block_name,
    container_name,
    datastore_name,
    default_reference_name,
    folder_prefix,
    join,
    matcher,
    normal_path,
    parents,
    reference_name,
)

CLIMBS_OR_STANDS = ["..", ".", "a/../b", "../x", "a/..", "./k", "a/.", "a/./b", "../../etc/passwd"]
HAS_A_HOLE = ["", "/x", "a//b", "t/", "/", "//", "a/"]
BACKSLASH = ["a\\b", "..\\w", "\\", "a/b\\..\\c"]
NO_XML = ["a\x00b", "a\ufffeb", "a\uffffb", "a\ud800b", "a\udfffb", "\x01", "a\x1fb", "a/\x08/b"]
ALLOWED = [
    *("%41", "%2e%2e/x", "#", "a?b=c", "\U0001f680", "a b", "a\tb", "a\nb", "a\rb", "+", "&"),
    *(".hidden", "..a", "a..", "...", "a.", "dir./f", " ", "-", "~", "a:b", "*", "caf\u00e9"),
    *("a/b/c", "\x7f", "x" * MAX_COMPONENT_BYTES),
]

# The same examples in every run, however slow the machine is.
UNHURRIED = settings(deadline=None, derandomize=True, max_examples=200)

TINY = st.text(alphabet="aA./", min_size=0, max_size=6)
COMPONENT = st.text(alphabet="aAb", min_size=1, max_size=2)
PATHS = st.lists(COMPONENT, min_size=1, max_size=3).map(tuple)


@pytest.mark.parametrize("raw", [*CLIMBS_OR_STANDS, *HAS_A_HOLE, *BACKSLASH, *NO_XML])
@pytest.mark.parametrize("kind", [ObjectName, RelativePath])
def test_a_name_that_would_leave_its_place_cannot_be_made(kind: type, raw: str) -> None:
    with pytest.raises(UnsafeName) as caught:
        kind(raw)
    assert repr(raw) in str(caught.value)


@pytest.mark.parametrize("raw", ALLOWED)
def test_a_harmless_name_stays_as_it_is(raw: str) -> None:
    assert ObjectName(raw) == raw
    assert str(RelativePath(raw)) == raw
    assert tuple(RelativePath(raw)) == tuple(raw.split("/"))


def test_a_name_is_no_longer_than_the_service_holds() -> None:
    longest = "/".join(["x" * 100] * 10) + "/" + "y" * (MAX_OBJECT_NAME - 1010)
    assert len(ObjectName(longest)) == MAX_OBJECT_NAME
    with pytest.raises(UnsafeName, match="longer than 1024 characters"):
        ObjectName(longest + "y")


def test_a_component_is_no_longer_in_bytes_than_a_disk_holds() -> None:
    assert RelativePath("a/" + "\u00e9" * 127)
    with pytest.raises(UnsafeName, match="longer than 255 bytes"):
        RelativePath("a/" + "\u00e9" * 128)
    assert ObjectName("\u00e9" * 128)


def test_checked_names_stay_checked_when_they_are_pickled() -> None:
    for name in (ObjectName("a/b"), RelativePath("a/b")):
        again = pickle.loads(pickle.dumps(name))
        assert (type(again), again) == (type(name), name)


@UNHURRIED
@given(TINY)
def test_no_checked_name_climbs(raw: str) -> None:
    try:
        parts = ObjectName(raw).split("/")
    except UnsafeName:
        assert not raw or any(part in {"", ".", ".."} for part in raw.split("/"))
    else:
        assert not {"", ".", ".."} & set(parts)
        assert list(RelativePath(raw)) == parts


@pytest.mark.parametrize(
    "raw", ["bar", "./bar", "/bar", "bar/", "//bar", "./././bar/.", "/./bar//"]
)
def test_one_place_has_many_spellings(raw: str) -> None:
    assert normal_path(raw) == "bar"


@pytest.mark.parametrize("raw", [None, "", "/", ".", "./", "//", "/./."])
def test_the_root_has_many_spellings(raw: str | None) -> None:
    assert normal_path(raw) == ""


@pytest.mark.parametrize("raw", ["..", "../x", "a/../b", "a/..", "a\\b", "a\x00", "x" * 1025])
def test_a_place_outside_is_refused(raw: str) -> None:
    with pytest.raises(UnsafeName):
        normal_path(raw)


@UNHURRIED
@given(TINY)
def test_a_normal_path_is_its_own_normal_path(raw: str) -> None:
    if ".." in raw.split("/"):
        with pytest.raises(UnsafeName):
            normal_path(raw)
        return
    normal = normal_path(raw)
    assert normal_path(normal) == normal
    assert normal_path(f"./{raw}/") == normal
    assert [part for part in raw.split("/") if part not in {"", "."}] == list(
        filter(None, normal.split("/"))
    )


def test_a_prefix_ends_at_a_boundary_and_joins_make_no_double_slash() -> None:
    assert folder_prefix("p") == "p/"
    assert folder_prefix("") == ""
    assert join("", "a", "", "b/c") == "a/b/c"
    assert list(parents("a/b/c")) == ["a/b", "a"]
    assert list(parents("a")) == []


@pytest.mark.parametrize(
    ("raw", "name"),
    [("raw", "raw"), ("My_Data", "my_data"), ("my-data", "my_data"), ("0", "0"), ("a" * 255,) * 2],
)
def test_a_datastore_has_one_name(raw: str, name: str) -> None:
    assert datastore_name(raw) == name
    assert datastore_name(block_name(raw)) == name.strip("_")


@pytest.mark.parametrize(
    "raw",
    ["", "_a", "-a", "a_", "a-", "a b", "a/b", "a.b", "\u00e9", "a\n", "a" * 256, "../a", None, 3],
)
def test_a_datastore_name_that_no_server_takes_is_refused(raw: str) -> None:
    with pytest.raises(ConfigurationError, match="datastore name"):
        datastore_name(raw)


@pytest.mark.parametrize(
    "raw", ["abc", "a-b", "a1-b2-c3", "a" * 63, "123", "$root", "$web", "$logs"]
)
def test_a_container_name_of_the_service_is_taken(raw: str) -> None:
    assert container_name(raw) == raw


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "ab",
        "a" * 64,
        "Abc",
        "a--b",
        "-ab",
        "ab-",
        "a_b",
        "a.b",
        "abc\n",
        "$mine",
        "a/b",
        "../x",
    ],
)
def test_a_container_name_that_the_service_refuses_is_refused_first(raw: str) -> None:
    with pytest.raises(ConfigurationError, match="container name"):
        container_name(raw)


@pytest.mark.parametrize("raw", ["abc", "0a1", "a" * 24])
def test_an_account_name_of_the_service_is_taken(raw: str) -> None:
    assert account_name(raw) == raw


@pytest.mark.parametrize(
    "raw", ["", "ab", "a" * 25, "Abc", "a-b", "a.blob.core.windows.net", "abc\n"]
)
def test_an_account_name_that_no_account_has_is_refused(raw: str) -> None:
    with pytest.raises(ConfigurationError, match="account name"):
        account_name(raw)


@pytest.mark.parametrize("raw", ["a", "A_1", "_", "9"])
def test_a_reference_name_that_a_shell_expands_is_taken(raw: str) -> None:
    assert reference_name(raw) == raw


@pytest.mark.parametrize("raw", ["", "a-b", "a.b", "a b", "a\n", "$a", "\u00e9", "a/b"])
def test_a_reference_name_that_no_shell_expands_is_refused(raw: str) -> None:
    with pytest.raises(ConfigurationError, match="reference name"):
        reference_name(raw)


def test_a_default_reference_name_reads_as_its_place() -> None:
    assert default_reference_name("raw", "") == "raw"
    assert default_reference_name("raw", "mnist/train") == "raw_mnist_train"
    # The digits are those of a digest: another process, another day, the same name.
    assert default_reference_name("raw", "day=1") == "raw_day_1_51234957"


def test_places_that_would_read_the_same_have_other_default_names() -> None:
    paths = ["a-b", "a.b", "a/b", "a b", "a\u00e9b", "a+b", "a%b"]
    assert len({default_reference_name("raw", path) for path in paths}) == len(paths)


@UNHURRIED
@given(st.text(alphabet="ab-./_\u00e9", min_size=1, max_size=5))
def test_a_default_reference_name_is_always_the_same_identifier(path: str) -> None:
    name = default_reference_name("raw", path)
    assert name == default_reference_name("raw", path)
    assert reference_name(name) == name


def faults(rules: NameRules, *names: str, folders: tuple[str, ...] = ()) -> NameCheck:
    check = NameCheck(rules)
    for name in folders:
        check.add(tuple(name.split("/")), folder=True)
    for name in names:
        check.add(tuple(name.split("/")))
    return check


@pytest.mark.parametrize("names", list(itertools.permutations(["a", "a/b", "a/c/d"])))
def test_a_file_and_a_folder_of_one_name_collide_in_any_order(names: tuple[str, ...]) -> None:
    with pytest.raises(NameCollision, match="'a' would be a file and a folder at once"):
        faults(NameRules(), *names).raise_faults("here")


def test_a_marker_and_a_file_of_one_name_collide() -> None:
    check = faults(NameRules(), "a", folders=("a",))
    assert check.collisions == ["'a' would be a file and a folder at once."]
    assert faults(NameRules(), "a/b", folders=("a", "a")).collisions == []


@pytest.mark.parametrize(
    ("rules", "one", "other"),
    [
        (NameRules(case_sensitive=False), "Case", "case"),
        (NameRules(case_sensitive=False), "stra\u00dfe", "STRASSE"),
        (NameRules(normalizes_unicode=True), "caf\u00e9", "cafe\u0301"),
        (NameRules(case_sensitive=False, normalizes_unicode=True), "CAF\u00c9", "cafe\u0301"),
    ],
)
def test_names_collide_only_where_the_place_takes_them_for_one(
    rules: NameRules, one: str, other: str
) -> None:
    for pair in ((one, other), (other, one)):
        assert faults(NameRules(), *pair).collisions == []
        with pytest.raises(NameCollision) as caught:
            faults(rules, *pair).raise_faults("here")
        assert repr(one) in str(caught.value)
        assert repr(other) in str(caught.value)


def test_folders_that_would_be_one_collide_once() -> None:
    rules = NameRules(case_sensitive=False)
    check = faults(rules, "Data/1", "data/2", "data/3", "Data/4")
    assert check.collisions[0] == "The folders 'Data' and 'data' would be one."
    assert faults(rules, "Data/1", folders=("data",)).collisions != []
    assert faults(rules, "Data/1", "Data/2").collisions == []


@pytest.mark.parametrize("name", ["x.", "dir./f", "a/b./c", "..."])
def test_trailing_dots_are_refused_only_where_they_are_stripped(name: str) -> None:
    assert faults(NameRules(), name).unsafe == []
    with pytest.raises(UnsafeName, match=re.escape(repr(name))):
        faults(NameRules(strips_trailing_dots=True), name).raise_faults("here")


def test_all_faults_are_listed_at_once_and_unsafe_names_come_first() -> None:
    check = faults(NameRules(strips_trailing_dots=True), "x.", "y.", "a", "a/b")
    for raw in ("../up", "c\\d"):
        with pytest.raises(UnsafeName) as refused:
            ObjectName(raw)
        check.refuse(refused.value)
    with pytest.raises(UnsafeName) as caught:
        check.raise_faults("the source")
    for raw in ("x.", "y.", "../up", "c\\d"):
        assert repr(raw) in str(caught.value)
    assert len(check.collisions) == 1


def test_a_very_long_list_of_faults_is_cut_and_counted() -> None:
    check = faults(NameRules(strips_trailing_dots=True), *(f"{n}." for n in range(25)))
    with pytest.raises(UnsafeName, match=r"\.\.\. and 5 more\.$"):
        check.raise_faults("here")


def test_a_name_with_more_components_than_the_place_takes_is_refused() -> None:
    check = faults(NameRules(most_components=3), "a/b/c", "d", "a/b/e/f")
    with pytest.raises(UnsafeName, match="'a/b/e/f' has 4 components, and the service takes 3"):
        check.raise_faults("here")
    assert len(check.unsafe) == 1


def test_no_fault_raises_nothing() -> None:
    faults(NameRules(strips_trailing_dots=True), "a/b", "a/c", "b").raise_faults("here")


@UNHURRIED
@given(st.lists(PATHS, unique=True, max_size=6), st.booleans())
def test_a_check_agrees_with_a_model_of_a_disk(
    paths: list[tuple[str, ...]], case_sensitive: bool
) -> None:
    rules = NameRules(case_sensitive=case_sensitive)
    check = NameCheck(rules)
    for path in paths:
        check.add(path)
    files = [tuple(map(rules.key, path)) for path in paths]
    folders = {path[:depth] for path in paths for depth in range(1, len(path))}
    folder_keys = [tuple(map(rules.key, folder)) for folder in folders]
    collide = (
        len(set(files)) < len(files)
        or len(set(folder_keys)) < len(folder_keys)
        or bool(set(files) & set(folder_keys))
    )
    assert bool(check.collisions) == collide


TREE = [
    *("a.txt", "b.csv", "a/a.txt", "a/b/a.txt", "a/b/c.csv", "b/x", "data.d/1", ".hidden"),
    *("a/[x]", "x1", "x2", "xa", "a\nb", "a.txt\n", "A.TXT", "c/a/b/a.txt"),
]


def taken(include: list[str], exclude: list[str] = []) -> list[str]:  # noqa: B006  never changed
    pattern = matcher(include, exclude)
    return [name for name in TREE if pattern.match(name)]


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*.txt", ["a.txt", "a/a.txt", "a/b/a.txt", "c/a/b/a.txt"]),
        ("a.txt", ["a.txt", "a/a.txt", "a/b/a.txt", "c/a/b/a.txt"]),
        ("/a.txt", ["a.txt"]),
        ("a/*", ["a/a.txt", "a/b/a.txt", "a/b/c.csv", "a/[x]"]),
        ("a/*.txt", ["a/a.txt"]),
        ("a/**/*.txt", ["a/a.txt", "a/b/a.txt"]),
        ("**/a.txt", ["a.txt", "a/a.txt", "a/b/a.txt", "c/a/b/a.txt"]),
        ("**/b/*", ["a/b/a.txt", "a/b/c.csv", "b/x", "c/a/b/a.txt"]),
        ("a/**", ["a/a.txt", "a/b/a.txt", "a/b/c.csv", "a/[x]"]),
        ("x?", ["x1", "x2", "xa"]),
        ("x[12]", ["x1", "x2"]),
        ("x[0-9]", ["x1", "x2"]),
        ("x[!12]", ["xa"]),
        ("x[^12]", ["x1", "x2"]),
        ("a[!x]a.txt", []),
        ("a[/]a.txt", []),
        ("a?a.txt", []),
        ("[[]x]", ["a/[x]"]),
        ("b", ["a/b/a.txt", "a/b/c.csv", "b/x", "c/a/b/a.txt"]),
        ("b/", ["a/b/a.txt", "a/b/c.csv", "b/x", "c/a/b/a.txt"]),
        ("a/b", ["a/b/a.txt", "a/b/c.csv"]),
        ("data.d", ["data.d/1"]),
        ("dataxd", []),
        (".hidden", [".hidden"]),
        ("a?b", ["a\nb"]),
        ("**", TREE),
        ("*", TREE),
        ("nothing", []),
    ],
)
def test_a_glob_takes(glob: str, names: list[str]) -> None:
    assert taken([glob]) == names


def test_no_include_takes_everything_and_exclude_wins() -> None:
    assert taken([]) == TREE
    assert taken([], ["*"]) == []
    assert taken(["a/b"], ["*.txt"]) == ["a/b/c.csv"]
    assert taken(["*.txt"], ["a.txt"]) == []
    assert taken([], ["**/a.txt", "a", "x*", "?.csv"]) == [
        *("data.d/1", ".hidden", "a\nb", "a.txt\n", "A.TXT")
    ]


@pytest.mark.parametrize(
    "glob", ["[", "[]", "[!]", "a[", "[a", "[!", "[z-a]", "[]-a]", "(", "a|b", "$"]
)
def test_an_unfinished_class_is_literal_text_or_takes_nothing(glob: str) -> None:
    pattern = matcher([glob], [])
    assert not pattern.match("other")
    if glob != "[z-a]":
        assert pattern.match(glob) or glob == "[]-a]"


@UNHURRIED
@given(
    st.text(alphabet="ab*?", min_size=1, max_size=4).filter(lambda glob: "**" not in glob),
    st.lists(COMPONENT, min_size=1, max_size=3).map("/".join),
)
def test_a_pattern_without_a_slash_is_fnmatch_on_any_component(glob: str, name: str) -> None:
    expected = any(fnmatch.fnmatchcase(part, glob) for part in name.split("/"))
    assert bool(matcher([glob], []).match(name)) == expected


@UNHURRIED
@given(
    st.lists(st.text(alphabet="ab*?", min_size=1, max_size=2), min_size=2, max_size=3).filter(
        lambda parts: not any("**" in part for part in parts)
    ),
    st.lists(COMPONENT, min_size=1, max_size=4),
)
def test_a_pattern_with_a_slash_is_fnmatch_component_by_component(
    glob: list[str], name: list[str]
) -> None:
    expected = len(name) >= len(glob) and all(
        fnmatch.fnmatchcase(part, pattern) for part, pattern in zip(name, glob, strict=False)
    )
    assert bool(matcher(["/".join(glob)], []).match("/".join(name))) == expected


@UNHURRIED
@given(st.text(alphabet="a[]!^-*\\/&", min_size=1, max_size=6), TINY)
def test_any_text_is_a_glob(glob: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken_by, left_by = matcher([glob], []), matcher([], [glob])
    assert bool(taken_by.match(name)) != bool(left_by.match(name))

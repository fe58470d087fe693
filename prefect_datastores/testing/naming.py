"""Names: odd ones come back as they were given, and alike ones are told apart."""
# ruff: noqa: D102  the names of the tests are sentences

from __future__ import annotations

import pytest

from prefect_datastores.names import NameRules, ObjectName
from prefect_datastores.stores.base import ObjectStore
from prefect_datastores.stores.listed import list_objects
from prefect_datastores.testing.objects import ODD_NAMES, get, names_below, put


class NameContract:
    """Names: odd ones come back as they were given, and alike ones are told apart."""

    def test_odd_names_come_back_as_they_were_given(self, store: ObjectStore) -> None:
        rules = store.name_rules()
        # What a place refuses stops a plan, so that it is never kept under another name.
        names = [f"odd/{name}" for name in ODD_NAMES if not _faults(rules, name)]
        for name in names:
            put(store, name, name.encode())
        assert names_below(store, "odd/") == sorted(names)
        for name in names:
            assert store.head(ObjectName(name)).name == name
            assert get(store, name) == name.encode()
            assert name in names_below(store, name)
            store.delete(ObjectName(name))
            assert name not in names_below(store, name)
        assert [info for info in list_objects(store, "odd/") if not info.is_marker] == []

    def test_names_that_look_alike_are_other_objects(self, store: ObjectStore) -> None:
        rules = store.name_rules()
        names = ["%41", "A", "a%2Fb", "a+b", "a b", "a%20b", "..a", ".a"]
        # Where names are told apart without case, `A` would be the folder of `a/b`.
        names += ["a/b"] if rules.case_sensitive else ["c/b"]
        for name in names:
            put(store, name, name.encode())
        assert [get(store, name) for name in names] == [name.encode() for name in names]
        assert names_below(store) == sorted(names)

    @pytest.mark.parametrize(
        ("one", "other"), [("case", "Case"), ("e\u0301", "\u00e9"), ("\u017f", "s")]
    )
    def test_the_name_rules_say_which_names_are_one(
        self, store: ObjectStore, one: str, other: str
    ) -> None:
        rules = store.name_rules()
        put(store, one, b"one")
        put(store, other, b"other")
        distinct = rules.key(one) != rules.key(other)
        assert len(names_below(store)) == (2 if distinct else 1)
        assert get(store, one) == (b"one" if distinct else b"other")


def _faults(rules: NameRules, name: str) -> list[str]:
    return [fault for part in name.split("/") if (fault := rules.fault(part))]

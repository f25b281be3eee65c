"""A patch leads from one object to the other, whatever the two are."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonpatch
from hypothesis import given, settings
from hypothesis import strategies as st

from injector.core.diff import diff
from injector.core.model import Additions, Object
from injector.core.splice import splice
from tests.injector.support import pod

_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.text("ab/~", max_size=2))
_NAMED = st.fixed_dictionaries({"name": st.sampled_from("abcd")}, optional={"x": _LEAVES})
_JSON = st.recursive(
    st.one_of(_LEAVES, _NAMED),
    lambda node: st.lists(node, max_size=4) | st.dictionaries(st.text("ab/~", max_size=2), node),
    max_leaves=12,
)
_OBJECT = st.dictionaries(st.sampled_from(["a", "b", "c/~"]), _JSON)


def _applied(before: Object, after: Object) -> Any:
    operations = json.loads(json.dumps(diff(before, after)))
    return jsonpatch.apply_patch(copy.deepcopy(before), operations)


def _typed(node: Any) -> str:
    """JSON tells 1 from true; Python does not."""
    return json.dumps(node, sort_keys=True)


@settings(max_examples=100)
@given(_OBJECT, _OBJECT)
def test_the_patch_of_any_two_objects_applies(before: Object, after: Object) -> None:
    assert _typed(_applied(before, after)) == _typed(after)


@settings(max_examples=100)
@given(st.lists(_NAMED, max_size=5), st.data())
def test_the_patch_of_lists_that_share_items_applies(items: list[Any], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(items), max_size=6)) if items else []
    added = data.draw(st.lists(_NAMED, max_size=3))
    after = {"list": data.draw(st.permutations([*some, *added]))}
    before = {"list": items}
    assert _typed(_applied(before, after)) == _typed(after)


@given(_OBJECT)
def test_equal_objects_give_no_patch(obj: Object) -> None:
    assert diff(obj, copy.deepcopy(obj)) == []
    assert diff(obj, obj) == []


def test_neither_object_is_changed() -> None:
    before, after = {"a": [{"name": "x"}], "b": 1}, {"a": [{"name": "y"}], "c": {"d": []}}
    copies = copy.deepcopy((before, after))
    diff(before, after)
    assert (before, after) == copies


def test_a_spliced_pod_is_patched_by_additions_alone() -> None:
    """An audit log should show what came to the pod, not containers turned into each other."""
    given = pod({"x": "y"}, volumes=[{"name": "data"}])
    added = Additions(
        proxy={"name": "proxy", "env": [{"name": "A"}]},
        position="first",
        volumes=({"name": "token"},),
        annotations={"linkerd.io/a": "b"},
    )
    assert diff(given, splice(given, added)) == [
        {"op": "add", "path": "/metadata/annotations/linkerd.io~1a", "value": "b"},
        {"op": "add", "path": "/spec/containers/0", "value": added.proxy},
        {"op": "add", "path": "/spec/volumes/1", "value": {"name": "token"}},
    ]


def test_a_changed_container_is_patched_inside() -> None:
    given = pod()
    after = splice(given, Additions(container_env=({"name": "A", "value": "b"},)))
    assert diff(given, after) == [
        {"op": "add", "path": "/spec/containers/0/env", "value": [{"name": "A", "value": "b"}]}
    ]


def test_a_list_that_lost_items_is_patched_in_place() -> None:
    before: Object = {"spec": {"args": ["a", "b", "c"], "kept": [1]}}
    after: Object = {"spec": {"args": ["c", "d"], "kept": [True]}}
    assert _typed(_applied(before, after)) == _typed(after)


def test_a_pointer_escapes_what_stands_for_something_in_it() -> None:
    before: Object = {"a/b": {"~c": [{"name": "x", "d": 1}]}}
    after: Object = {"a/b": {"~c": [{"name": "y"}, {"name": "x", "d": 2}]}}
    assert diff(before, after) == [
        {"op": "add", "path": "/a~1b/~0c/0", "value": {"name": "y"}},
        {"op": "replace", "path": "/a~1b/~0c/1/d", "value": 2},
    ]

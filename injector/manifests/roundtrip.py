"""YAML as people wrote it: one document, read and written without loss.

What a person wrote is never re-interpreted: every scalar keeps its spelling and its quotes, so
that ``"080"``, ``1e3`` and ``0644`` come out as they went in, whatever YAML version the next
reader speaks. Plain scalars mean here what they mean to Kubernetes (sigs.k8s.io/yaml).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from injector.manifests.documents import Piece

MAX_COPIES = 100_000
"""Values that a document's aliases may repeat; more is a bomb, or no manifest."""

MAX_DEPTH = 300
"""Levels of nesting; libyaml itself crashes at some hundred thousand."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_PLAIN = "plain"
_STR = "tag:yaml.org,2002:str"
_WIDTH = 2**30


class YamlError(ValueError):
    """A document is not YAML, or not what Kubernetes takes; ``line`` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")
        self.line = line


# --- reading -----------------------------------------------------------------------------------


class Text(str):
    """A text as it was written: ``style`` is its quote, ``|``, ``>``, or empty for plain."""

    style: str = ""


class Integer(int):
    """A whole number as it was spelled (``0644``, ``1e3``)."""

    spelled: str


class Real(float):
    """Any other number as it was spelled."""

    spelled: str


class FlowMap(dict[Any, Any]):
    """A mapping that was written in braces."""


class FlowList(list[Any]):
    """A list that was written in brackets."""


class _SpellingLoader(_Loader):  # type: ignore[misc]
    """Tells plain scalars from others and decides nothing about them."""

    yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}  # noqa: RUF012


def load(piece: Piece) -> Any:
    """The value of a document; None where it is empty.

    Raises:
        YamlError: not YAML; a key twice in one mapping; a tag or an alias that cannot be kept.
    """
    body = piece.text.lstrip()
    if body.startswith("{"):
        try:
            return json.loads(body, object_pairs_hook=_unique)
        except _Twice as error:
            raise YamlError(piece.line, f'key "{error}" is given twice') from None
        except (ValueError, RecursionError):
            pass  # Not JSON, but a flow mapping perhaps.
    try:
        _check_depth(piece)
        node = yaml.compose(piece.text, Loader=_SpellingLoader)
        return None if node is None else _Reader(piece.line).read(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = piece.line + (mark.line if mark else 0)
        raise YamlError(line, f"not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise YamlError(piece.line, "not YAML: " + " ".join(str(error).split())) from error
    except RecursionError as error:
        raise YamlError(piece.line, "nested too deeply") from error


_OPENING = ("[", "{", "- ", "? ")


def _check_depth(piece: Piece) -> None:
    if sum(map(piece.text.count, _OPENING)) <= MAX_DEPTH:
        return  # Deeper by indentation alone would take a text of many megabytes.
    depth = 0
    for event in yaml.parse(piece.text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = piece.line + (event.start_mark.line if event.start_mark else 0)
            raise YamlError(line, f"nested more than {MAX_DEPTH} deep")


class _Twice(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _Twice(key)
        result[key] = value
    return result


class _Reader:
    """Makes values of nodes; each alias becomes a copy, since the writer knows no aliases."""

    def __init__(self, first_line: int) -> None:
        self.first_line = first_line
        self.copies = 0
        self.seen: set[int] = set()
        self.open: set[int] = set()

    def fail(self, node: Node, text: str) -> YamlError:
        return YamlError(self.first_line + node.start_mark.line, text)

    def read(self, node: Node) -> Any:
        self.copies += id(node) in self.seen
        self.seen.add(id(node))
        if self.copies > MAX_COPIES:
            raise self.fail(node, f"aliases repeat more than {MAX_COPIES} values")
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise self.fail(node, "an alias points into itself")
        self.open.add(id(node))
        value = self.collection(node)
        self.open.discard(id(node))
        return value

    def scalar(self, node: ScalarNode) -> Any:
        if node.tag == _PLAIN:
            return plain_value(node.value)
        if node.tag.startswith("tag:yaml.org,2002:") and node.tag != _STR:
            # An explicit type: !!int "3". The spelling with the tag is lost, the value is not.
            return plain_value(node.value)
        if node.tag != _STR:
            raise self.fail(node, f"the tag {node.tag} is not known")
        value = Text(node.value)
        value.style = node.style or '"'
        return value

    def collection(self, node: Node) -> Any:
        return self.mapping(node) if isinstance(node, MappingNode) else self.sequence(node)

    def sequence(self, node: Any) -> list[Any]:
        items = [self.read(item) for item in node.value]
        return FlowList(items) if node.flow_style else items

    def mapping(self, node: MappingNode) -> dict[Any, Any]:
        own: dict[Any, Any] = FlowMap() if node.flow_style else {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise self.fail(key_node, "a key must be a text")
            if key_node.tag == _PLAIN and key_node.value == "<<":
                for source in self.merged(value_node):
                    merged = {**source, **merged}
                continue
            key = _key(key_node)
            if key in own:
                raise self.fail(key_node, f'key "{key}" is given twice')
            own[key] = self.read(value_node)
        for key, value in merged.items():
            own.setdefault(key, value)
        return own

    def merged(self, node: Node) -> list[dict[Any, Any]]:
        """The mappings that a merge key (``<<``) names; the first wins."""
        value = self.read(node)
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise self.fail(node, "<< takes a mapping, or a list of them")
        return sources


def _key(node: ScalarNode) -> str:
    """A key, which to Kubernetes is a text however it is spelled."""
    text: str = node.value
    if _is_clear(text):
        return text
    key = Text(text)
    key.style = "" if node.tag == _PLAIN else node.style or '"'
    return key


_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_REAL = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 400


def plain_value(text: str) -> Any:
    """What a plain scalar means to Kubernetes: YAML 1.1's booleans, Go's numbers, else text.

    Dates and times are texts, as there. (``y`` and ``n``, of which readers think differently,
    stay as they are.)
    """
    if text in _WORDS:
        return _WORDS[text]
    digits = text.replace("_", "")
    if len(text) <= _LONGEST_NUMBER and digits[:1] in "+-.0123456789":
        if _INTEGER.fullmatch(digits):
            return _spelled(_integer(digits), text)
        if _REAL.fullmatch(digits):
            return _spelled(float(digits), text)
    return Text(text)


def _integer(digits: str) -> int:
    octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)
    return int(f"{octal[1]}0o{octal[2]}" if octal else digits, 0)


def _spelled(value: int | float, text: str) -> Integer | Real | Text:
    if isinstance(value, float) and not value.is_integer():
        if value in (float("inf"), float("-inf")):
            return Text(text)
        real = Real(value)
        real.spelled = text
        return real
    whole = Integer(value)  # 1e3 is a whole number to Go's JSON too.
    whole.spelled = text
    return whole


# --- writing -----------------------------------------------------------------------------------

_HEAD = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\r?\n|%[^\n]*\n|---[ \t]*(?:#[^\n]*)?\r?\n)*")


def dump(value: Any, piece: Piece | None = None) -> str:
    """A document as YAML, in the place of ``piece``, of which separator and leading comments stay.

    Texts that are new are quoted wherever any reader could take them for something else.
    """
    head = ""
    if piece is not None and (match := _HEAD.match(piece.text)):
        head = match[0]
        if not head and piece.text.startswith("---"):
            head = "---\n"
        if "%" in head:
            head = re.sub(r"^%[^\n]*\n", "", head, flags=re.M)
    events = [yaml.DocumentStartEvent(explicit=False), *_events(value)]
    body: str = yaml.emit(
        [yaml.StreamStartEvent(), *events, yaml.DocumentEndEvent(), yaml.StreamEndEvent()],
        Dumper=_Dumper,
        width=_WIDTH,
        allow_unicode=True,
    )
    return head + body


def _events(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield yaml.MappingStartEvent(None, None, True, flow_style=_is_flow(value))
        for key, item in value.items():
            yield _scalar(key)
            yield from _events(item)
        yield yaml.MappingEndEvent()
    elif isinstance(value, list | tuple):
        yield yaml.SequenceStartEvent(None, None, True, flow_style=_is_flow(value))
        for item in value:
            yield from _events(item)
        yield yaml.SequenceEndEvent()
    else:
        yield _scalar(value)


def _is_flow(value: Any) -> bool:
    return isinstance(value, FlowMap | FlowList) or not value


def _scalar(value: Any) -> Any:
    text, style = _spelling(value)
    return yaml.ScalarEvent(None, None, (True, True), text, style=style)


def _spelling(value: Any) -> tuple[str, str | None]:
    if isinstance(value, Integer | Real):
        return value.spelled, None
    if value is None:
        return "null", None
    if isinstance(value, bool):
        return ("true" if value else "false"), None
    if isinstance(value, int | float):
        return json.dumps(value), None
    if isinstance(value, Text):
        # A folded text is written as a literal one: what is long must not be folded anew.
        return str(value), {">": "|", "": None}.get(value.style, value.style)
    if "\n" in value:
        return value, "|"
    return value, None if _is_clear(value) else '"'


_UNCLEAR_START = re.compile(r"[-+]?[.0-9]|[~=<]")
_UNCLEAR_WORDS = frozenset(word.lower() for word in _WORDS) | {"y", "n"}


def _is_clear(text: str) -> bool:
    """Whether every YAML reader takes the text, unquoted, for a text."""
    return not _UNCLEAR_START.match(text) and text.lower() not in _UNCLEAR_WORDS

"""What libcni 1.3 takes for a network configuration: its rules, one by one, as pure functions.

A runtime starts pods with what libcni makes of net.d, not with what we make of it; so the rules
are libcni's own (``libcni/api.go`` and ``conf.go``, ``pkg/types/types.go``), with those of Go's
encoding/json for how an object becomes a struct: a field's name in any case, the last one counts,
null changes nothing. What older versions of libcni take is a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vocabulary.errors import MeshgraftError

CONF_SUFFIXES = (".conf", ".conflist", ".json")
"""What runtimes read in net.d; anything else there is invisible to them."""
DROP_IN_SUFFIX = ".conf"
"""What libcni reads in the folder that is named after a network."""

_CURRENT = (1, 1, 0)
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_NUMBER = re.compile(r"[+-]?[0-9]+", re.ASCII)


class LibcniError(MeshgraftError, ValueError):
    """libcni refuses the configuration; the text says why."""


def is_list(filename: str) -> bool:
    """Whether a runtime takes the file for a list; it takes all others for one plugin."""
    return filename.endswith(".conflist")


def is_network_name(name: str) -> bool:
    """``utils.ValidateNetworkName``: without such a name, no pod can be started."""
    return _NAME.fullmatch(name) is not None


def field(obj: Mapping[str, Any], name: str) -> Any:
    """What Go's encoding/json puts into a struct's field: None for absent, and for null."""
    found = None
    for key, value in obj.items():
        if value is not None and (key == name or key.casefold() == name.casefold()):
            found = value
    return found


def type_of(plugin: Mapping[str, Any]) -> str:
    """The plugin's type; empty where it has none that libcni would run."""
    kind = field(plugin, "type")
    return kind if isinstance(kind, str) else ""


def check_plugin(plugin: object) -> None:
    """``NetworkPluginConfFromBytes``: one plugin, by itself, in a list, or in a drop-in.

    Raises:
        LibcniError: refused.
    """
    if not isinstance(plugin, dict):
        raise LibcniError("it is not an object")
    for name, has_type, wanted in _PLUGIN_FIELDS:
        value = field(plugin, name)
        if value is not None and not has_type(value):
            raise LibcniError(f"{name} is not {wanted}")
    if not type_of(plugin):
        raise LibcniError("it has no type")


def check_list(config: Mapping[str, Any]) -> None:
    """``NetworkConfFromBytes``: a list, except for whether it has plugins at all (`inlined`).

    Raises:
        LibcniError: refused.
    """
    if "name" not in config:
        raise LibcniError("it has no name")
    if not isinstance(config["name"], str):
        raise LibcniError("name is not a string")
    if not config["name"]:
        raise LibcniError("its name is empty")
    _check_versions(config)
    for key in ("disableCheck", "disableGC", "loadOnlyInlinedPlugins"):
        _check_bool(config, key)
    if "plugins" not in config:
        if loads_only_inlined(config):
            raise LibcniError("it has no list of plugins, and loadOnlyInlinedPlugins is set")
        return
    plugins = config["plugins"]
    if not isinstance(plugins, list) or not plugins:
        raise LibcniError("it has no list of plugins")
    for number, plugin in enumerate(plugins):
        try:
            check_plugin(plugin)
        except LibcniError as error:
            raise LibcniError(f"plugins[{number}] is no object with a type: {error}") from error


def inlined(config: Mapping[str, Any]) -> list[Any]:
    """The plugins in the list itself."""
    plugins = config.get("plugins")
    return plugins if isinstance(plugins, list) else []


def loads_only_inlined(config: Mapping[str, Any]) -> bool:
    """Whether the folder that is named after the network is left alone."""
    return str(config.get("loadOnlyInlinedPlugins", False)).lower() == "true"


def _check_bool(config: Mapping[str, Any], key: str) -> None:
    value = config.get(key, False)
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false")):
        return
    raise LibcniError(f"{key} is neither true nor false")


def _check_versions(config: Mapping[str, Any]) -> None:
    version = config.get("cniVersion", "")
    if not isinstance(version, str):
        raise LibcniError("cniVersion is not a string")
    if "cniVersions" not in config:
        return
    versions = config["cniVersions"]
    if not isinstance(versions, list):
        raise LibcniError("cniVersions is not a list")
    for each in versions + ([version] if version else []):
        if not isinstance(each, str) or not _is_version(each):
            raise LibcniError(f"cniVersions has an entry that is no version: {each!r}")


def _is_version(text: str) -> bool:
    """``version.ParseVersion``: one to three whole numbers."""
    parts = text.split(".")
    return len(parts) <= 3 and all(_NUMBER.fullmatch(part) for part in parts)


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(each is None or _is_string(each) for each in value)


def _is_capabilities(value: object) -> bool:
    return isinstance(value, dict) and all(
        each is None or isinstance(each, bool) for each in value.values()
    )


def _is_struct(value: object, fields: Mapping[str, Callable[[object], bool]]) -> bool:
    if not isinstance(value, dict):
        return False
    found = ((field(value, name), has_type) for name, has_type in fields.items())
    return all(each is None or has_type(each) for each, has_type in found)


def _is_ipam(value: object) -> bool:
    return _is_struct(value, {"type": _is_string})


def _is_dns(value: object) -> bool:
    lists = dict.fromkeys(("nameservers", "search", "options"), _is_strings)
    return _is_struct(value, {"domain": _is_string, **lists})


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_attachments(value: object) -> bool:
    fields = {"containerID": _is_string, "ifname": _is_string}
    return isinstance(value, list) and all(
        each is None or _is_struct(each, fields) for each in value
    )


_PLUGIN_FIELDS: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("cniVersion", _is_string, "a string"),
    ("name", _is_string, "a string"),
    ("type", _is_string, "a string"),
    ("capabilities", _is_capabilities, "an object of true and false"),
    ("ipam", _is_ipam, "an object with a type"),
    ("dns", _is_dns, "an object of names"),
    ("prevResult", _is_object, "an object"),
    ("cni.dev/valid-attachments", _is_attachments, "a list of attachments"),
)
"""Of struct ``types.PluginConf``."""


def named(tree: object, kind: str) -> Iterator[tuple[Any, ...]]:
    """Where plugins of a type are, however deep: the path to each, keys and numbers."""
    pending: list[tuple[tuple[Any, ...], object]] = [((), tree)]
    while pending:
        path, node = pending.pop()
        if isinstance(node, dict):
            if type_of(node) == kind:
                yield path
            pending += [((*path, key), value) for key, value in node.items()]
        elif isinstance(node, list):
            pending += [((*path, number), value) for number, value in enumerate(node)]

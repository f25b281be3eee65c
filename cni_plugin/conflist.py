"""Network configurations as values: puts our entry last, takes it out, makes a `.conf` a list.

Everything here is pure and leaves its arguments alone. Keys keep their order, and those that
nobody here knows stay. Source: libcni's conf.go for what is valid; Linkerd's installer for how a
single ``.conf`` becomes a list.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from cni_plugin.netconf import ANNOTATIONS_CAPABILITY, SUPPORTED_VERSIONS

Config = dict[str, Any]
"""One parsed JSON object; the order of its keys is the file's."""

PLUGIN_TYPE = "linkerd-cni"
CONF_SUFFIXES = (".conf", ".conflist", ".json")
"""What runtimes read in net.d; anything else there is invisible to them."""

_CHAIN_VERSION = "0.3.1"
"""The version Linkerd writes; chaining began with 0.3.0."""
_UNNAMED = "k8s-pod-network"
_NETWORK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")


class ConflistError(ValueError):
    """This is no network configuration that can be used; the text says what is wrong with it."""


def parse(raw: bytes) -> Config:
    """The one JSON object of a file.

    Raises:
        ConflistError: empty, half-written, not UTF-8, not JSON as Go reads it, or no object.
    """
    if not raw.strip():
        raise ConflistError("it is empty")
    try:
        value = json.loads(raw.decode(), parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ConflistError(f"not UTF-8 text (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise ConflistError(f"not JSON, or only half of it: {error}") from error
    if not isinstance(value, dict):
        raise ConflistError("not a JSON object")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # would be written as Infinity, which no runtime reads
        raise ValueError(f"the number {text} is out of range")
    return number


def render(config: Mapping[str, Any]) -> bytes:
    """A configuration as it is written: two spaces, a newline at the end, letters as they are."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can hold
        return (json.dumps(config, indent=2) + "\n").encode()


def is_single(filename: str) -> bool:
    """Whether runtimes take the file for one plugin (``.conf``, ``.json``) and not for a list."""
    return not filename.endswith(".conflist")


def check(filename: str, config: Mapping[str, Any]) -> None:
    """Hold a file to what libcni asks of it, and to having a plugin beside ours.

    Raises:
        ConflistError: runtimes refuse it, or there is no primary CNI in it.
    """
    for key in ("name", "cniVersion"):
        if key in config and not isinstance(config[key], str):
            raise ConflistError(f"{key} is not a string")
    if is_single(filename):
        _check_single(config)
    else:
        _check_list(config)


def _check_single(config: Mapping[str, Any]) -> None:
    if not _type_of(config):
        hint = "; a list must be in a .conflist" if "plugins" in config else ""
        raise ConflistError(f"it has no type{hint}")
    if _type_of(config) == PLUGIN_TYPE:
        raise ConflistError(f"it holds nothing but {PLUGIN_TYPE}")


def _check_list(config: Mapping[str, Any]) -> None:
    if "name" not in config:
        raise ConflistError("it has no name")
    plugins = config.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise ConflistError("it has no list of plugins")
    for number, plugin in enumerate(plugins):
        if not isinstance(plugin, dict) or not _type_of(plugin):
            raise ConflistError(f"plugins[{number}] is no object with a type")
    if all(_type_of(plugin) == PLUGIN_TYPE for plugin in plugins):
        raise ConflistError(f"it holds nothing but {PLUGIN_TYPE}")


def is_valid(filename: str, config: Mapping[str, Any]) -> bool:
    """Whether `check` finds nothing wrong."""
    try:
        check(filename, config)
    except ConflistError:
        return False
    return True


def choose_active(configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The file that pods are started with: the lowest name that is valid; None without one."""
    return min((name for name, config in configs.items() if is_valid(name, config)), default=None)


def _type_of(plugin: Mapping[str, Any]) -> str:
    kind = plugin.get("type")
    return kind if isinstance(kind, str) else ""


def types(config: Mapping[str, Any]) -> list[str]:
    """The plugins' types, in order, of a list or of a single configuration."""
    return [_type_of(plugin) for plugin in config.get("plugins", [config])]


def entries(conflist: Mapping[str, Any]) -> list[Config]:
    """Our entries in a valid list; there should be one."""
    return [plugin for plugin in conflist["plugins"] if _type_of(plugin) == PLUGIN_TYPE]


def strip(conflist: Mapping[str, Any]) -> Config:
    """The list without any entry of ours; all else as it was."""
    others = [plugin for plugin in conflist["plugins"] if _type_of(plugin) != PLUGIN_TYPE]
    return {**conflist, "plugins": others}


def merge(conflist: Mapping[str, Any], entry: Mapping[str, Any]) -> Config:
    """The list with ``entry`` last, and no other of ours."""
    stripped = strip(conflist)
    return {**stripped, "plugins": [*stripped["plugins"], dict(entry)]}


def convert(conf: Mapping[str, Any], entry: Mapping[str, Any]) -> Config:
    """A single configuration as a list with ``entry`` last.

    As Linkerd does it, but for two things that pods can feel: the network keeps its name (IPAM
    keeps addresses under it), and a version above Linkerd's 0.3.1 stays.
    """
    version = conf.get("cniVersion")
    if version not in SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.index(_CHAIN_VERSION) :]:
        version = _CHAIN_VERSION
    plugin = {key: value for key, value in conf.items() if key != "cniVersion"}
    return {
        "name": conf.get("name") or _UNNAMED,
        "cniVersion": version,
        "plugins": [plugin, dict(entry)],
    }


def is_conversion(conflist: Mapping[str, Any], conf: Mapping[str, Any]) -> bool:
    """Whether the list is still what `convert` made of ``conf``: nobody changed it since, so that
    putting ``conf`` back loses nothing."""
    return strip(conflist) == strip(convert(conf, {"type": PLUGIN_TYPE}))


def conflist_name(filename: str) -> str:
    """The file that a single configuration becomes: ``10-x.conf`` is ``10-x.conflist``."""
    return PurePath(filename).with_suffix(".conflist").name


def drop_in_obstacle(filename: str, config: Mapping[str, Any]) -> str | None:
    """Why libcni would load no drop-in for this network; None where it does."""
    if is_single(filename):
        return "drop-ins go with a .conflist only; make it one, or let the installer rewrite it"
    if str(config.get("loadOnlyInlinedPlugins", False)).lower() == "true":
        return "loadOnlyInlinedPlugins is set: drop-ins are not loaded"
    if not _NETWORK_NAME.fullmatch(config["name"]):
        return f"the network's name {config['name']!r} cannot be a folder's"
    return None


def default_entry(log_level: str = "info") -> Config:
    """Our entry where no other is given."""
    return complete_entry({"type": PLUGIN_TYPE}, log_level)


def parse_entry(text: str, log_level: str | None = None) -> Config:
    """Our entry from ``CNI_NETWORK_CONFIG``, in Linkerd's form.

    Raises:
        ConflistError: no JSON object, or another plugin's.
    """
    entry = parse(text.encode())
    if _type_of(entry) != PLUGIN_TYPE:
        raise ConflistError(f"its type is {entry.get('type')!r}, not {PLUGIN_TYPE!r}")
    return complete_entry(entry, log_level)


def complete_entry(entry: Mapping[str, Any], log_level: str | None) -> Config:
    """The entry with the level, and asking the runtime for pods' annotations."""
    capabilities = entry.get("capabilities")
    asked = capabilities if isinstance(capabilities, dict) else {}
    level = {} if log_level is None else {"log_level": log_level}
    return {**entry, **level, "capabilities": {**asked, ANNOTATIONS_CAPABILITY: True}}

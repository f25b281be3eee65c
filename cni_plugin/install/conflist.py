"""Network configurations as values: puts our entry last, takes it out, makes a `.conf` a list.

Everything here is pure and leaves its arguments alone. Keys keep their order, and those that
nobody here knows stay. Source: libcni's conf.go for what is valid; Linkerd's installer for how a
single ``.conf`` becomes a list.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

from cni_plugin.install import libcni
from cni_plugin.spec import ANNOTATIONS_CAPABILITY, SUPPORTED_VERSIONS
from vocabulary.errors import MeshgraftError

Config = dict[str, Any]
"""One parsed JSON object; the order of its keys is the file's."""

PLUGIN_TYPE = "linkerd-cni"
CONF_SUFFIXES = libcni.CONF_SUFFIXES

_CHAIN_VERSION = "0.3.1"
"""The version Linkerd writes; chaining began with 0.3.0."""
_UNNAMED = "k8s-pod-network"


class ConflistError(MeshgraftError, ValueError):
    """This is no network configuration that can be used; the text says what is wrong with it."""


def parse(raw: bytes) -> Config:
    """The one JSON object of a file.

    Raises:
        ConflistError: empty, half-written, not JSON as Go reads it, or no object.
    """
    if not raw.strip():
        raise ConflistError("it is empty")
    try:
        # Go takes any bytes in a text; those that are no UTF-8 come out as they went in.
        text = raw.decode(errors="surrogateescape")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
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
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can hold
        return (json.dumps(config, indent=2) + "\n").encode()


def is_single(filename: str) -> bool:
    """Whether runtimes take the file for one plugin (``.conf``, ``.json``) and not for a list."""
    return not libcni.is_list(filename)


def check(
    filename: str, config: Mapping[str, Any], drop_ins: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Hold a file to what libcni asks of it, and to having a plugin beside ours; ``drop_ins`` are
    the plugins in the folder of the network's name.

    Raises:
        ConflistError: runtimes refuse it, or there is no primary CNI in it.
    """
    try:
        if is_single(filename):
            _check_single(config)
        else:
            _check_list(config, drop_ins)
    except libcni.LibcniError as error:
        raise ConflistError(str(error)) from error


def _check_single(config: Mapping[str, Any]) -> None:
    if "plugins" in config and not _type_of(config):
        raise ConflistError("it has no type; a list must be in a .conflist")
    libcni.check_plugin(config)
    if _type_of(config) == PLUGIN_TYPE:
        raise ConflistError(f"it holds nothing but {PLUGIN_TYPE}")


def _check_list(config: Mapping[str, Any], drop_ins: Sequence[Mapping[str, Any]]) -> None:
    libcni.check_list(config)
    plugins = [*libcni.inlined(config), *drop_ins]
    if not plugins:
        raise ConflistError("it has no list of plugins, nor a folder with some")
    if all(_type_of(plugin) == PLUGIN_TYPE for plugin in plugins):
        raise ConflistError(f"it holds nothing but {PLUGIN_TYPE}")


def is_valid(filename: str, config: Mapping[str, Any]) -> bool:
    """Whether `check` finds nothing wrong."""
    try:
        check(filename, config)
    except ConflistError:
        return False
    return True


def choose_active(
    configs: Mapping[str, Mapping[str, Any]], network: str = "", seen: Set[str] | None = None
) -> str | None:
    """The file that pods are started with; None without one.

    The lowest name that is valid; with ``network``, the lowest of that network (CRI-O's
    ``cni_default_network``). ``seen``: the names that are known to be valid.
    """
    valid = (
        name
        for name, config in configs.items()
        if (is_valid(name, config) if seen is None else name in seen)
        and (not network or network_name(name, config) == network)
    )
    return min(valid, default=None)


def network_name(filename: str, config: Mapping[str, Any]) -> str:
    """The network's name, as CRI-O has it: a file without one lends its own."""
    name = libcni.field(config, "name") if is_single(filename) else config.get("name")
    return name if isinstance(name, str) and name else filename


_type_of = libcni.type_of


def types(config: Mapping[str, Any]) -> list[str]:
    """The plugins' types, in order, of a list or of a single configuration."""
    return [_type_of(plugin) for plugin in libcni.inlined(config) or [config]]


def entries(conflist: Mapping[str, Any]) -> list[Config]:
    """Our entries in a valid list; there should be one."""
    return [plugin for plugin in libcni.inlined(conflist) if _type_of(plugin) == PLUGIN_TYPE]


def is_nested(config: Mapping[str, Any]) -> bool:
    """Whether our entry is in the configuration, but in another's (Multus' ``delegates``)."""
    direct = [*libcni.inlined(config), config]
    return not any(_type_of(each) == PLUGIN_TYPE for each in direct if isinstance(each, dict)) and (
        next(libcni.named(config, PLUGIN_TYPE), None) is not None
    )


def without_us(tree: Any) -> Any:
    """The same without our entries, in whichever list they are; one that is in no list stays."""
    if isinstance(tree, dict):
        return {key: without_us(value) for key, value in tree.items()}
    if isinstance(tree, list):
        kept = (each for each in tree if not (isinstance(each, dict) and _is_us(each)))
        return [without_us(each) for each in kept]
    return tree


def names_us(tree: Any) -> bool:
    """Whether our entry is anywhere in it."""
    return next(libcni.named(tree, PLUGIN_TYPE), None) is not None


def _is_us(plugin: Mapping[str, Any]) -> bool:
    return _type_of(plugin) == PLUGIN_TYPE


def strip(conflist: Mapping[str, Any]) -> Config:
    """The list without any entry of ours; all else as it was."""
    others = [plugin for plugin in libcni.inlined(conflist) if _type_of(plugin) != PLUGIN_TYPE]
    return {**conflist, "plugins": others} if "plugins" in conflist else dict(conflist)


def merge(conflist: Mapping[str, Any], entry: Mapping[str, Any]) -> Config:
    """The list with ``entry`` last, and no other of ours."""
    stripped = strip(conflist)
    return {**stripped, "plugins": [*libcni.inlined(stripped), dict(entry)]}


def convert(conf: Mapping[str, Any], entry: Mapping[str, Any]) -> Config:
    """A single configuration as a list with ``entry`` last.

    As Linkerd does it, except for two things that pods can feel: the network keeps its name (IPAM
    keeps addresses under it), and a version above Linkerd's 0.3.1 stays.
    """
    version = libcni.field(conf, "cniVersion")
    if version not in SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.index(_CHAIN_VERSION) :]:
        version = _CHAIN_VERSION
    plugin = {key: value for key, value in conf.items() if key.casefold() != "cniversion"}
    return {
        "name": libcni.field(conf, "name") or _UNNAMED,
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
    if libcni.loads_only_inlined(config):
        return "loadOnlyInlinedPlugins is set: drop-ins are not loaded"
    if not libcni.is_network_name(config["name"]):
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

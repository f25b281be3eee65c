"""The settings in force: a values file (or Linkerd's ConfigMap), and a profile laid over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from injector.core.model import BuildInput, Namespace, Origin, Owner
from injector.core.values import BadValues, Resource, Resources, Values, decode_values
from injector.profiles import get_profile
from process.files import FileError, parse_documents, read_documents
from vocabulary.annotations import BadValue, parse_quantity
from vocabulary.errors import MeshgraftError


class SettingsError(MeshgraftError, ValueError):
    """The settings are not usable; the text names the file and the key."""


def load_values(path: Path) -> Values:
    """Settings from a file in the shape of Helm's values, or from a saved ``linkerd-config``.

    Raises:
        SettingsError: not readable, not YAML or JSON, or a key of the wrong type.
    """
    try:
        documents = read_documents(path)
        if len(documents) > 1:
            raise SettingsError(f"{path}: one document is expected, not {len(documents)}")
        values = decode_values(_unwrap(documents[0] if documents else None, str(path)))
        get_profile(values.meshgraft.profile)
        return values
    except FileError as error:
        raise SettingsError(str(error)) from error
    except BadValues as error:
        raise SettingsError(f"{path}: {error}") from error


def _unwrap(tree: Any, source: str) -> Any:
    """The values themselves, where they come inside a ConfigMap (``data.values`` is YAML text)."""
    if not isinstance(tree, dict) or tree.get("kind") != "ConfigMap":
        return tree
    data = tree.get("data")
    text = data.get("values") if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise SettingsError(f'{source}: the ConfigMap has no text under data key "values"')
    documents = parse_documents(text, f'{source}: data key "values"')
    return documents[0] if documents else None


class Settings:
    """Holds the current `Values`; whoever decides about a pod asks `current` each time."""

    def __init__(self, path: Path | None = None, profile: str | None = None) -> None:
        """Load the file; without one every setting has its default. ``profile`` overrides it.

        Raises:
            SettingsError: as `load_values`.
        """
        self._path = path
        self._profile = profile
        self._current = self._load()

    @property
    def current(self) -> Values:
        """The settings in force; frozen, so that one review sees one state."""
        return self._current

    def reload(self) -> bool:
        """Read the file again; True where something changed.

        Raises:
            SettingsError: as `load_values`; the settings so far stay in force then.
        """
        fresh = self._load()
        changed = fresh != self._current
        self._current = fresh
        return changed

    def _load(self) -> Values:
        values = Values() if self._path is None else load_values(self._path)
        if self._profile is not None:
            ours = msgspec.structs.replace(values.meshgraft, profile=self._profile)
            values = msgspec.structs.replace(values, meshgraft=ours)
        try:
            rehearse(values)
        except BadValues as error:
            raise SettingsError(f"{self._path}: {error}") from error
        return values


def rehearse(values: Values) -> None:
    """Finds now, and not with every pod of the cluster, what no pod could be injected with.

    Raises:
        BadValues: a text that is no amount or time, ports that collide, or whatever else the
            profile cannot use.
    """
    for name in Resources.__struct_fields__:
        resource: Resource = getattr(values.proxy.resources, name)
        for part, amount in (("request", resource.request), ("limit", resource.limit)):
            _check_amount(f"proxy.resources.{name.replace('_', '-')}.{part}", amount)
    for variable in (*values.proxy.additional_env, *values.proxy.experimental_env):
        if not isinstance(variable.get("name"), str):
            raise BadValues(f"values: proxy: {variable!r}: expected a variable with a name")
    ports = values.proxy.ports
    if len({ports.admin, ports.control, ports.inbound, ports.outbound}) < 4:
        raise BadValues("values: proxy.ports: expected four different ports")
    nobody = BuildInput(
        pod={"kind": "Pod", "metadata": {}, "spec": {"containers": []}},
        settings=values,
        values=values,
        namespace=Namespace("default"),
        owner=Owner("pod", "rehearsal"),
        origin=Origin(created_by="", additions=True),
    )
    get_profile(values.meshgraft.profile).build(nobody)


def _check_amount(path: str, text: str) -> None:
    try:
        parse_quantity(text or "0")
    except BadValue as error:
        raise BadValues(f"values: {path}: {text!r}: expected {error}") from error

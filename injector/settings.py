"""The settings in force: a values file (or Linkerd's ConfigMap), and a profile laid over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from injector.files import FileError, parse_documents, read_documents
from injector.values import BadValues, Values, decode_values

ProfileName = Literal["envoy", "linkerd"]


class SettingsError(ValueError):
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
        return decode_values(_unwrap(documents[0] if documents else None, str(path)))
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

    def __init__(self, path: Path | None = None, profile: ProfileName | None = None) -> None:
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
        if self._profile is None:
            return values
        ours = msgspec.structs.replace(values.meshgraft, profile=self._profile)
        return msgspec.structs.replace(values, meshgraft=ours)

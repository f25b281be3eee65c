"""The installer: keeps our program in the CNI bin dir, and our entry last in the active conflist.

`Installer.reconcile` looks at the node's folders, does what is missing, and says what it did and
what is in the way; doing it again changes nothing. Nothing it meets there is fatal. It never
makes a network of its own: without a primary CNI it waits. The program goes in before the entry
and comes out after it, so that no ADD ever names a plugin that is not there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

from cni_plugin.install import conflist, crio, host_files, libcni, proof
from cni_plugin.install.backoff import Backoff
from cni_plugin.install.conflist import Config, ConflistError
from cni_plugin.install.host_files import ChangedMeanwhile, HostFileError, TooLongError
from cni_plugin.install.netdir import DROP_IN, Conf, Report, original_of, read_conf, remove_drop_in
from cni_plugin.install.uninstaller import take_out
from cni_plugin.install.watch import keep_reconciled

PROGRAM = conflist.PLUGIN_TYPE

_CILIUM_SUFFIX = ".cilium_bak"
_PROGRAM_MODE = 0o755
_PROGRAM_BYTES = 256 << 20
_ENTRY_MODE = 0o644
_AT_ONCE = 0.2
"""Seconds after which a file that changed under our hands is looked at again."""

_PROVE_AGAIN = 30.0
"""Seconds after which a program that does not run is tried again."""

_IN_CHARGE_AGAIN = 5.0
"""Seconds after which it is asked again whether this is the node's installer."""

_log = structlog.get_logger("cni_plugin.install.installer")

Scope = Literal["active", "all"]
Method = Literal["rewrite", "drop-in"]


@dataclass(frozen=True, slots=True)
class InstallSettings:
    """What is installed, and where. Folders are the node's; ``host_prefix`` is where the container
    has the node's root (``CONTAINER_MOUNT_PREFIX``)."""

    program: Path
    """The static program that is copied (in the image)."""
    entry: Mapping[str, Any] = field(default_factory=conflist.default_entry)
    net_dir: Path = Path("/etc/cni/net.d")
    bin_dir: Path = Path("/opt/cni/bin")
    host_prefix: Path = Path("/host")
    scope: Scope = "active"
    """``all`` takes every configuration, as Linkerd's installer does."""
    method: Method = "rewrite"
    """``drop-in`` leaves others' files alone; it needs a runtime with libcni 1.3 or newer."""
    default_network: str = ""
    """The network that pods are started with, by name, where that is not the first one: CRI-O's
    ``cni_default_network``. Empty: as CRI-O's own settings say, if they are seen."""

    @property
    def net_folder(self) -> Path:
        """net.d as this process sees it."""
        return self.host_prefix / self.net_dir.relative_to(self.net_dir.anchor)

    @property
    def bin_folder(self) -> Path:
        """The CNI bin dir as this process sees it."""
        return self.host_prefix / self.bin_dir.relative_to(self.bin_dir.anchor)


class Observer(Protocol):
    """Hears what each look at the node came to, for metrics."""

    def looked(self, ready: bool, changes: int, problems: int) -> None:
        """Whether pods are started with us now, how much was changed, how much is in the way."""


class Installer:
    """Installs, keeps installed, and uninstalls. `reconcile` and `uninstall` exclude each other."""

    def __init__(
        self,
        settings: InstallSettings,
        backoff: Backoff | None = None,
        *,
        in_charge: Callable[[], bool] = lambda: True,
        observer: Observer | None = None,
        prove: Callable[[Path], None] = proof.prove,
    ) -> None:
        """``in_charge`` says whether this is the node's installer: of two releases, as there are
        for a moment in an upgrade, each would put its own program in the other's place. ``prove``
        raises HostFileError for a program that does not run here."""
        self._settings = settings
        self._net = settings.net_folder
        self._backoff = backoff or Backoff()
        self._in_charge = in_charge
        self._observer = observer
        self._prove = prove
        self._proven: tuple[int, ...] | None = None
        self._too_long: set[str] = set()
        self._lock = threading.Lock()
        self._ready: str | None = None
        self._problems: list[str] = []

    @property
    def ready(self) -> str | None:
        """The file that pods are started with, with us in the chain; None as long as there is
        none."""
        return self._ready

    @property
    def problems(self) -> tuple[str, ...]:
        """What was in the way at the last look."""
        return tuple(self._problems)

    def run(self, stop: threading.Event) -> None:
        """Keep installed until ``stop``; then leave everything in place, as an upgrade needs it."""
        keep_reconciled(self.folders, self._beat, stop)

    def folders(self) -> list[Path]:
        """What is to be watched: net.d, the bin dir, and the folder of each drop-in of ours."""
        drop_ins = [path.parent for path in self._net.glob(f"*/{DROP_IN}")]
        return [self._net, self._settings.bin_folder, *drop_ins]

    def missing(self) -> list[str]:
        """What keeps pods from being started with us in the chain; nothing where they are."""
        if self._ready is not None:
            return []
        return list(self._problems) or ["the node's CNI folders were not looked at yet"]

    def _beat(self) -> float | None:
        if not self._in_charge():
            return _IN_CHARGE_AGAIN
        told = self._problems
        report = self.reconcile()
        if self._observer is not None:
            self._observer.looked(
                ready=report.active is not None,
                changes=len(report.done),
                problems=len(report.problems),
            )
        for sentence in report.done:
            _log.info("changed on the node", what=sentence)
        for problem in report.problems:
            if problem not in told:
                _log.warning("in the way of the installation", problem=problem)
        if told and not report.problems:
            _log.info("nothing is in the way any more", active=report.active)
        return report.retry_seconds

    def reconcile(self) -> Report:
        """Do what is missing. Never raises for what the node's folders hold."""
        report = Report()
        with self._lock:
            try:
                self._install(report)
            except HostFileError as error:
                report.problems.append(str(error))
            self._ready = report.active
            self._problems = report.problems
        return report

    def uninstall(self) -> Report:
        """Take out the entries, give back what was a ``.conf``, and remove the program last.

        The program stays while any configuration may still name it: without it, every ADD of
        that network would fail. ``problems`` then says what to do. Call it after `run` ended.
        """
        report = Report()
        with self._lock:
            self._ready = None
            try:
                take_out(self._net, report)
                if not report.problems and host_files.remove(self._program):
                    report.done.append(f"removed {self._program}")
            except HostFileError as error:
                report.problems.append(str(error))
        return report

    # The program

    @property
    def _program(self) -> Path:
        return self._settings.bin_folder / PROGRAM

    def _install(self, report: Report) -> None:
        self._put_program(report)
        host_files.sweep(self._net)
        self._tell_of_cilium(report)
        confs = self._read_all(report)
        network = self._default_network(report)
        configs = {conf.name: conf.config for conf in confs}
        active = conflist.choose_active(configs, network, seen=configs.keys())
        if active is None:
            what = f"of network {network!r}, CRI-O's default, " if network else ""
            report.problems.append(
                f"no network configuration {what}in {self._net} yet: waiting for one"
            )
        for conf in confs:
            if self._settings.scope == "all" or conf.name == active:
                carries = self._put_entry(conf, report)
                if carries and conf.name == active and not self._is_hidden(active):
                    report.active = carries

    def _default_network(self, report: Report) -> str:
        if self._settings.default_network:
            return self._settings.default_network
        try:
            return crio.default_network(self._settings.host_prefix)
        except HostFileError as error:
            report.problems.append(str(error))
            return ""

    def _put_program(self, report: Report) -> None:
        program = host_files.read(self._settings.program, _PROGRAM_BYTES)
        if not host_files.holds(self._program, program.content, _PROGRAM_MODE):
            self._copy_program(program, report)
        proven = host_files.identity(self._program)
        if proven != self._proven:
            report.retry(_PROVE_AGAIN)
            self._prove(self._program)
            report.retry_seconds = None
            self._proven = proven

    def _copy_program(self, program: host_files.Snapshot, report: Report) -> None:
        wait = self._backoff.wait(self._program)
        if wait:
            report.retry(wait)
            raise HostFileError(
                f"{self._program}: another tool keeps replacing it; backing off. "
                "Is another release of this plugin (Linkerd's own?) on the node?"
            )
        host_files.write(self._program, program.content, _PROGRAM_MODE)
        host_files.sweep(self._settings.bin_folder)
        self._backoff.wrote(self._program)
        report.done.append(f"copied the program to {self._program}")

    # The configurations

    def _read_all(self, report: Report) -> list[Conf]:
        """The valid ones, lowest name first; what is wrong with the others is a problem each."""
        confs = []
        self._too_long.clear()
        for name in host_files.names(self._net):
            if not name.endswith(conflist.CONF_SUFFIXES):
                continue
            path = self._net / name
            try:
                confs.append(read_conf(path))
            except ConflistError as error:
                report.problems.append(f"{path}: {error}; left alone (runtimes may stop at it)")
            except HostFileError as error:
                if isinstance(error, TooLongError):
                    self._too_long.add(name)
                report.problems.append(f"{error}{self._behind_a_link(path)}")
        return confs

    def _behind_a_link(self, path: Path) -> str:
        """Where a link leads that only the node can follow; empty for what is no such link."""
        try:
            target = path.readlink()
        except OSError:
            return ""
        prefix = self._settings.host_prefix
        if not target.is_absolute() or prefix == Path(prefix.anchor):
            return ""
        return f"; it is a link to {target}, which this container does not see"

    def _is_hidden(self, active: str) -> bool:
        """Whether pods may be started with a configuration that sorts before and is not seen."""
        if any(name < active for name in self._too_long):
            return True
        earlier = [name for name in host_files.names(self._net) if name < active]
        return any(
            name.endswith(conflist.CONF_SUFFIXES)
            and self._behind_a_link(self._net / name)
            and not (self._net / name).exists()
            for name in earlier
        )

    def _tell_of_cilium(self, report: Report) -> None:
        moved = [name for name in host_files.names(self._net) if name.endswith(_CILIUM_SUFFIX)]
        if moved:
            report.problems.append(
                f"Cilium's exclusive mode put other configurations aside ({', '.join(moved)}) and "
                "may take our entry out: install Cilium with cni.exclusive=false"
            )

    def _put_entry(self, conf: Conf, report: Report) -> str | None:
        """Bring one network to what it should be; the file that now carries our entry, if any."""
        try:
            if conflist.is_nested(conf.config):
                return conf.name  # as Multus takes over the primary's list, with us in it
            # A list without plugins of its own has them in its folder, where ours goes too.
            in_folder = not conflist.is_single(conf.name) and not libcni.inlined(conf.config)
            if in_folder or self._settings.method == "drop-in":
                return self._drop_in(conf, report)
            if conflist.is_single(conf.name):
                return self._convert(conf, report)
            return self._rewrite(conf, conflist.merge(conf.config, self._settings.entry), report)
        except ChangedMeanwhile:
            report.retry(_AT_ONCE)  # its writer is at work; the next look sees the whole of it
        except HostFileError as error:
            report.problems.append(str(error))
        return None

    def _rewrite(self, conf: Conf, wanted: Config, report: Report) -> str | None:
        if wanted != conf.config:
            if self._must_wait(conf, conf.path, report):
                return conf.name if conflist.entries(conf.config) else None
            host_files.replace(conf.file.path, conflist.render(wanted), conf.file)
            self._backoff.wrote(conf.path)
            report.done.append(f"put our entry last in {conf.path}")
        self._remove_drop_in(conf, report)
        return conf.name

    def _must_wait(self, conf: Conf, path: Path, report: Report) -> bool:
        """Whether ``path`` was written so often that another tool must be at it too."""
        wait = self._backoff.wait(path)
        if not wait:
            return False
        report.retry(wait)
        kinds = conflist.types(conf.config)
        if PROGRAM in kinds:
            state = "our entry is in it, but not as it should be"
        else:
            state = "PODS ARE NOT MESHED MEANWHILE: our entry is taken out again and again"
        if any("cilium" in kind for kind in kinds):
            state += " (install Cilium with cni.exclusive=false)"
        report.problems.append(f"{path}: another tool writes it too; backing off; {state}")
        return True

    def _convert(self, conf: Conf, report: Report) -> str | None:
        """Make a single configuration a list, and keep the original where no runtime looks.

        First the copy, then the list, then away with the original: at each moment there is a
        network, and an interrupted run is taken up by the next.
        """
        target, original = self._net / conflist.conflist_name(conf.name), original_of(conf.path)
        wanted = conflist.convert(conf.config, self._settings.entry)
        if target.exists() and not _is_ours(target, original, conf.config):
            report.problems.append(
                f"{conf.path}: a list of another making is at {target.name}; remove one of the two"
            )
            return None
        if self._must_wait(conf, target, report):
            return None
        host_files.replace(original, conf.file.content, conf.file)
        host_files.replace(target, conflist.render(wanted), conf.file)
        self._backoff.wrote(target)
        conf.file.check_unchanged()
        host_files.remove(conf.path)
        report.done.append(f"made {conf.path} a list, {target.name}, with our entry last")
        return target.name

    # Drop-ins

    def _drop_in(self, conf: Conf, report: Report) -> str | None:
        obstacle = conflist.drop_in_obstacle(conf.name, conf.config)
        if obstacle:
            report.problems.append(f"{conf.path}: {obstacle}")
            return None
        path = self._drop_in_path(conf.config)
        content = conflist.render(self._settings.entry)
        if not host_files.holds(path, content, _ENTRY_MODE):
            if self._must_wait(conf, path, report):
                return None
            _make_folder(path.parent)
            host_files.write(path, content, _ENTRY_MODE)
            self._backoff.wrote(path)
            report.done.append(f"put our entry in {path}")
        self._tell_of_later(path, report)
        self._leave_list(conf, report)
        return conf.name

    def _tell_of_later(self, path: Path, report: Report) -> None:
        drop_ins = [name for name in host_files.names(path.parent) if name.endswith(".conf")]
        later = [name for name in drop_ins if name > DROP_IN]
        if later:
            report.problems.append(f"{path}: {', '.join(later)} comes after our entry; rename it")

    def _leave_list(self, conf: Conf, report: Report) -> None:
        """Take out what an earlier setting put in the list itself: we are there once."""
        if not conflist.entries(conf.config) or self._must_wait(conf, conf.path, report):
            return
        host_files.replace(conf.file.path, conflist.render(conflist.strip(conf.config)), conf.file)
        self._backoff.wrote(conf.path)
        report.done.append(f"took our entry out of {conf.path}")

    def _drop_in_path(self, config: Config) -> Path:
        return self._net / str(config["name"]) / DROP_IN

    def _remove_drop_in(self, conf: Conf, report: Report) -> None:
        """Away with what an earlier setting left, now that the entry is in the list itself."""
        if conflist.drop_in_obstacle(conf.name, conf.config) is None:
            remove_drop_in(self._drop_in_path(conf.config), report)


def _is_ours(target: Path, original: Path, conf: Config) -> bool:
    """Whether the list was made here, be it by a run that was cut off or of an older ``conf``."""
    try:
        made = read_conf(target).config
    except (ConflistError, HostFileError):
        return False
    again = original.exists() and bool(conflist.entries(made))
    return again or conflist.is_conversion(made, conf)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
        host_files.sync_folder(folder.parent)
    except OSError as error:
        raise HostFileError(f"{folder}: cannot be made: {error.strerror or error}") from error

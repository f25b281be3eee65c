"""Takes our entry out of every configuration, and gives back each ``.conf`` that became a list."""

from __future__ import annotations

from pathlib import Path

from cni_plugin import conflist, host_files
from cni_plugin.conflist import PLUGIN_TYPE, Config, ConflistError
from cni_plugin.host_files import HostFileError
from cni_plugin.netdir import DROP_IN, Conf, Report, original_of, read_conf, remove_drop_in


def take_out(net: Path, report: Report) -> None:
    """Take every entry of ours out of net.d; ``problems`` says what still names our plugin.

    Raises:
        HostFileError: net.d cannot be listed, or a drop-in not removed.
    """
    for path in sorted(net.glob(f"*/{DROP_IN}")):
        remove_drop_in(path, report)
    for name in host_files.names(net):
        if name.endswith(conflist.CONF_SUFFIXES):
            try:
                _take_out_of(net / name, report)
            except HostFileError as error:  # the others' turn comes all the same
                report.problems.append(f"{error}; uninstall again")


def _take_out_of(path: Path, report: Report) -> None:
    file = host_files.read(path)
    if PLUGIN_TYPE.encode() not in file.content:
        return
    try:
        conf = read_conf(path)
    except ConflistError as error:
        report.problems.append(f"{path}: {error}, and it names {PLUGIN_TYPE}: mend it by hand")
        return
    if conflist.is_single(conf.name) or not conflist.entries(conf.config):
        return
    if not _give_back(conf, report):
        stripped = conflist.render(conflist.strip(conf.config))
        host_files.replace(conf.file.path, stripped, conf.file)
        report.done.append(f"took our entry out of {path}")


def _give_back(conf: Conf, report: Report) -> bool:
    """Put the ``.conf`` back that this list was made of; False where it was of none, or was
    changed since, and must stay a list."""
    for suffix in (".conf", ".json"):
        single = conf.path.with_suffix(suffix)
        original = original_of(single)
        if not original.exists():
            continue
        if not _was_made_of(conf.config, original):
            host_files.remove(original)
            report.done.append(f"{conf.path} was changed since it was {single.name}: kept")
            return False
        if single.exists():  # the primary CNI wrote a newer one meanwhile
            host_files.remove(original)
        else:
            host_files.move(original, single)
        host_files.remove(conf.path)
        report.done.append(f"gave back {single} in place of {conf.name}")
        return True
    return False


def _was_made_of(config: Config, original: Path) -> bool:
    try:
        return conflist.is_conversion(config, conflist.parse(host_files.read(original).content))
    except ConflistError:
        return False

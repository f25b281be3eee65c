"""Takes our entry out of every configuration, and gives back each ``.conf`` that became a list."""

from __future__ import annotations

from pathlib import Path

from cni_plugin.install import conflist, host_files
from cni_plugin.install.conflist import PLUGIN_TYPE, Config, ConflistError
from cni_plugin.install.host_files import HostFileError
from cni_plugin.install.netdir import (
    DROP_IN,
    ORIGINAL_SUFFIX,
    Conf,
    Report,
    original_of,
    remove_drop_in,
)


def take_out(net: Path, report: Report) -> None:
    """Take every entry of ours out of net.d, also those in others' configurations and in files
    that somebody put aside; ``problems`` says what still names our plugin.

    Raises:
        HostFileError: net.d cannot be listed, or a drop-in not removed.
    """
    for path in sorted(net.glob(f"*/{DROP_IN}")):
        remove_drop_in(path, report)
    folders = [net, *sorted(path for path in net.iterdir() if path.is_dir())]
    for path in [folder / name for folder in folders for name in host_files.names(folder)]:
        if path.name.endswith(ORIGINAL_SUFFIX):
            continue  # It goes, or is given back, with the list that was made of it.
        try:
            _take_out_of(path, report)
        except HostFileError as error:  # the others' turn comes all the same
            if path.name.endswith(conflist.CONF_SUFFIXES):
                report.problems.append(f"{error}; uninstall again")

    for name in host_files.names(net):
        if name.endswith(ORIGINAL_SUFFIX):
            _finish(net, name.removesuffix(ORIGINAL_SUFFIX), report)


def _finish(net: Path, name: str, report: Report) -> None:
    """Take up a run that was cut off when the list was gone and the copy was not."""
    single = net / name
    if (net / conflist.conflist_name(name)).exists():
        return  # It is a list of somebody's now, and a problem was reported above if it names us.
    if single.exists():
        host_files.remove(original_of(single))
    else:
        host_files.move(original_of(single), single)
        report.done.append(f"gave back {single}")


def _take_out_of(path: Path, report: Report) -> None:
    is_read = path.name.endswith(conflist.CONF_SUFFIXES)
    file = host_files.read(path)
    if not is_read and PLUGIN_TYPE.encode() not in file.content:
        return
    try:
        config = conflist.parse(file.content)
    except ConflistError as error:
        if is_read and PLUGIN_TYPE.encode() in file.content:
            report.problems.append(f"{path}: {error}, and it names {PLUGIN_TYPE}: fix it by hand")
        return
    if not conflist.names_us(config):
        return
    left = conflist.without_us(config)
    if conflist.names_us(left) or not conflist.types(left)[0]:
        report.problems.append(
            f"{path}: it names {PLUGIN_TYPE} where it cannot be taken out of: "
            "fix it by hand, or remove it"
        )
        return
    if conflist.is_single(path.name) or not _give_back(Conf(path, file, config), report):
        host_files.replace(file.path, conflist.render(left), file)
        report.done.append(f"took our entry out of {path}")


def _give_back(conf: Conf, report: Report) -> bool:
    """Put the ``.conf`` back that this list was made of; False where it was of none, or was
    changed since, and must stay a list.

    First the ``.conf``, then away with the list, then with the copy: a run that was cut off is
    taken up by the next.
    """
    for suffix in (".conf", ".json"):
        single = conf.path.with_suffix(suffix)
        original = original_of(single)
        if not original.exists():
            continue
        if not _was_made_of(conf.config, original):
            host_files.remove(original)
            report.done.append(f"{conf.path} was changed since it was {single.name}: kept")
            return False
        if not single.exists():  # else the primary CNI wrote a newer one meanwhile
            kept = host_files.read(original)
            host_files.replace(single, kept.content, kept)
        host_files.remove(conf.path)
        host_files.remove(original)
        report.done.append(f"gave back {single} in place of {conf.name}")
        return True
    return False


def _was_made_of(config: Config, original: Path) -> bool:
    try:
        return conflist.is_conversion(config, conflist.parse(host_files.read(original).content))
    except ConflistError:
        return False

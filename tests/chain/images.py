"""Container images made on the spot: one static program, or any files, in an OCI archive."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_OCI = "application/vnd.oci.image"

APP = r"""
/* `app`: waits for ever. `app serve PORT`: answers each connection with one line.
 * `app get ADDRESS PORT`: prints what it is answered. It is all that is in the image. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void end(int number) { _exit(number == SIGTERM ? 0 : 1); }

int main(int argc, char **argv) {
    signal(SIGTERM, end); /* as process 1 it would not end by default */
    signal(SIGINT, end);
    if (argc == 1) for (;;) pause();
    const int client = argc == 4 && !strcmp(argv[1], "get");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[client ? 3 : 2]))};
    int sock = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    char text[256];
    if (client) {
        if (inet_pton(AF_INET, argv[2], &at.sin_addr) != 1) return 2;
        if (connect(sock, (struct sockaddr *)&at, sizeof at)) return perror("connect"), 1;
        for (ssize_t n; (n = read(sock, text, sizeof text)) > 0;) fwrite(text, 1, n, stdout);
        return 0;
    }
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(sock, (struct sockaddr *)&at, sizeof at) || listen(sock, 64)) return perror("bind"), 1;
    for (;;) {
        int peer = accept(sock, NULL, NULL);
        if (peer < 0) continue;
        dprintf(peer, "port %s here\n", argv[2]);
        close(peer);
    }
}
"""


def build_app(folder: Path) -> Path:
    """Compile `APP` into a static program."""
    source, output = folder / "app.c", folder / "app"
    source.write_text(APP)
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", output, source], check=True, timeout=60)
    return output


def oci_archive(
    output: Path,
    name: str,
    files: Mapping[str, Path],
    *,
    entrypoint: Sequence[str],
    user: str = "",
) -> Path:
    """An archive that ``ctr images import`` takes: one layer with these files, each mode 0755."""
    layer = _tar({path: source.read_bytes() for path, source in files.items()}, 0o755)
    config = _json(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "User": user},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor(f"{_OCI}.config.v1+json", config),
            "layers": [_descriptor(f"{_OCI}.layer.v1.tar", layer)],
        }
    )
    described = _descriptor(f"{_OCI}.manifest.v1+json", manifest)
    index = {
        "schemaVersion": 2,
        "manifests": [{**described, "annotations": {"io.containerd.image.name": name}}],
    }
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (layer, config, manifest)}
    layout = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    output.write_bytes(_tar({**layout, **blobs}, 0o644))
    return output


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _tar(files: Mapping[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()

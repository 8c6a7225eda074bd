#!/usr/bin/env python3
"""Packs one program into an OCI image on nothing, without an image builder.

Usage: image.py REFERENCE PROGRAM[=PATH] ARCHIVE [ARGUMENT...]

REFERENCE names the image; PROGRAM becomes PATH (`/NAME` unless said), the entry point with these arguments unless a pod
says others, run as user 65532 (nobody's). The libraries that a dynamic program is linked with come along, where this
machine's loader finds them;
ARCHIVE is the OCI layout as a tar that `ctr images import` reads. The same input gives the same bytes.
Source of the layout: OCI image specification 1.1, "Image Layout".
"""
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile

USER = "65532:65532"


def tar_of(files: dict[str, tuple[bytes, int]]) -> bytes:
    """A tar of these files (name to content and mode), with no time and no owner in it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def libraries(program: str) -> dict[str, tuple[bytes, int]]:
    """The loader and libraries of a dynamic program, by path; empty for a static one."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if told.returncode and "not a dynamic executable" in told.stdout + told.stderr:
        return {}
    told.check_returncode()
    if "not found" in told.stdout:
        sys.exit(f"error: {program} needs a library that this machine lacks:\n{told.stdout}")
    files = {}
    for path in re.findall(r"(/\S+) \(0x", told.stdout):
        with open(path, "rb") as file:
            files[path.lstrip("/")] = (file.read(), 0o755)
    return files


def main(reference: str, program: str, archive: str, *arguments: str) -> None:
    program, _, path = program.partition("=")
    path = path or f"/{os.path.basename(program)}"
    blobs: dict[str, tuple[bytes, int]] = {}

    def blob(content: bytes, media_type: str) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = (content, 0o644)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    with open(program, "rb") as file:
        contents = {**libraries(program), path.lstrip("/"): (file.read(), 0o755)}
    layer = blob(tar_of(contents), "application/vnd.oci.image.layer.v1.tar")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [path], "Cmd": list(arguments), "User": USER},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    }
    named = blob(json.dumps(manifest).encode(), manifest["mediaType"])
    named["annotations"] = {"io.containerd.image.name": reference}
    index = {"schemaVersion": 2, "manifests": [named]}
    files = {
        "oci-layout": (b'{"imageLayoutVersion":"1.0.0"}', 0o644),
        "index.json": (json.dumps(index).encode(), 0o644),
        **blobs,
    }
    with open(f"{archive}.new", "wb") as file:
        file.write(tar_of(files))
    os.replace(f"{archive}.new", archive)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: image.py REFERENCE PROGRAM ARCHIVE [ARGUMENT...]")
    main(*sys.argv[1:])

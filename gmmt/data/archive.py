"""Unpacking archives that others made: everything or nothing, and never outside the folder."""

import contextlib
import errno
import functools
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from gmmt.errors import DownloadError

CORRUPT = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, ValueError, OSError)
"""What the standard library raises, found by damaging archives at random."""


def unpack(archive: Path | str, target: Path | str, max_bytes: int = 4 << 30) -> Path:
    """Returns `target`, a new folder with the content of a zip or tar archive; it appears in one step or, on an error, not at all.

    Raises:
        DownloadError: a cut or corrupt archive, more than `max_bytes`, a target that is not empty, or a member that is encrypted, a link
            or a device, collides with another, or whose name leads out of the folder (absolute, drive letter, backslash, ..).
    """
    archive, target = Path(archive), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DownloadError(f"{target}: is there already; expected a new or empty folder to unpack {archive.name} into. Move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    advice = "Nothing was unpacked: get the archive again from its source"
    content, left = work / "content", max_bytes
    content.mkdir()
    try:
        for name, is_folder, size, refusal, read in _members(archive):
            left -= size
            refusal = refusal or (f"brings the total above {max_bytes} bytes" if left < 0 else None)
            if refusal:
                raise DownloadError(f"{archive}: member {name!r} {refusal}. {advice}")
            path = content / name
            try:
                (path if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
                if not is_folder:
                    with path.open("xb") as output, read() as source:
                        shutil.copyfileobj(source, output)
            except (FileExistsError, NotADirectoryError):
                raise DownloadError(f"{archive}: member {name!r} collides with another of that name. {advice}") from None
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
        os.replace(content, target)
    except CORRUPT as error:
        if isinstance(error, DownloadError) or getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise  # refused above; or the disk is full, the folder may not be written, ...
        raise DownloadError(f"{archive}: cut short or corrupt ({error}); expected a whole zip or tar. {advice}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _members(archive: Path) -> Iterator[tuple]:
    """Yields (name, is a folder, bytes, why it is refused or None, function that opens it) for each member of a zip or tar archive."""
    link = "is a link, a device or another special file"
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for member in tar:
                refusal = _unsafe(member.name) or (None if member.isreg() or member.isdir() else link)
                yield member.name, member.isdir(), member.size, refusal, functools.partial(tar.extractfile, member)
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(512) != bytes(512):  # tarfile takes a file that stops between two members, or a bad header, for the end
                raise tarfile.ReadError("the end marker is missing")
            while tar.fileobj.read(1 << 20):  # gzip compares its checksum only at the very end
                pass
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            for member in pack.infolist():
                special = stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR)
                encrypted = "is encrypted" if member.flag_bits & 1 else None
                refusal = _unsafe(member.orig_filename) or (link if special else encrypted)
                yield member.filename, member.filename.endswith("/"), member.file_size, refusal, functools.partial(pack.open, member)
    else:
        raise zipfile.BadZipFile("neither zip nor tar")


def _unsafe(name: str) -> str | None:
    bad = not name or name.startswith("/") or re.search(r"[\\:\0]", name) or ".." in name.split("/")
    return "has a name that leads out of the folder" if bad else None

"""Data manifests (data_manifests/*.json): where data is from, how it is fetched and checked."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gmmt.data.image_folders import is_hidden
from gmmt.errors import DownloadError, ManifestError, did_you_mean
from gmmt.files import data_dir, manifest_dir, read_json

# What fetch() writes last: size and sha256 of every file beside it. A folder without is not whole.
STAMP = ".gmmt.json"


class Manifest(dict):
    """The fields of one checked manifest (data_manifests/README.md lists them)."""

    def __init__(self, content: dict):
        super().__init__(content)
        self.name, self.kind, self.title = content["name"], content["kind"], content["title"]
        # fetch() can get it; if not, instructions() say how a person can.
        self.automatic = self.kind in ("results", "images")
        # A new note or title does not make anyone download again.
        decisive = json.dumps([self.get("files"), self.get("unpacked")], sort_keys=True)
        self.fingerprint = hashlib.sha256(decisive.encode()).hexdigest()


def load(name: str) -> Manifest:
    """The manifest called `name`; ManifestError: there is none, or it does not fit schema.json."""
    import jsonschema

    folder, known = manifest_dir(), _names()
    if name not in known:
        hint = did_you_mean(repr(name.lower()), map(repr, known))
        raise ManifestError(
            f"{folder}: no manifest is called {name!r}; expected one of {', '.join(known)}.{hint}"
        )
    path = folder / f"{name}.json"
    schema = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    schema["$defs"]["name"]["const"] = name  # the file's own name, which a schema cannot know
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(
            f"{path}: not JSON in UTF-8 ({error}); mend that place or restore the file"
        ) from None
    lines = []
    for error in jsonschema.Draft202012Validator(schema).iter_errors(content):
        expected = error.schema.get("description", "what README.md says of it")
        lines.append(f"\n  {error.json_path}: {error.message:.300}; expected {expected}")
    if lines:
        raise ManifestError(f"{path} does not fit schema.json; correct{''.join(lines)}")
    return Manifest(content)


def load_all() -> dict[str, Manifest]:
    """Every manifest by name; errors as in `load`."""
    return {name: load(name) for name in _names()}


def _names() -> list[str]:
    return sorted(path.stem for path in manifest_dir().glob("*.json") if path.stem != "schema")


def fetch(
    name: str, mirror: Path | str | None = None, data: Path | str | None = None, progress=True
) -> Path:
    """The folder <data>/<name> with every file of the manifest, checked and unpacked.

    What is there and unchanged in size is left alone; else a folder that fetch() made is replaced,
    and another is set aside as <name>.old*. The folder appears in one step, so a killed run leaves
    nothing that looks whole; what it had downloaded stays for the next run. With a `mirror`
    ($GMMT_MIRROR), a folder that holds the same files anywhere below it, nothing is downloaded.
    DownloadError: no network, not in the mirror, other bytes than stated, no room, or a data set
    that only a person can get.
    """
    manifest, root = load(name), Path(data or data_dir())
    target, partial = root / name, root / f".{name}.partial"
    if not manifest.automatic:
        raise DownloadError(
            f"{name} cannot be downloaded by a program.\n\n{instructions(name, root)}"
        )
    if _is_whole(target, manifest):
        return target
    mirror = mirror or os.environ.get("GMMT_MIRROR")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=partial, ignore_cleanup_errors=True) as work:
            content = Path(work, "content")
            if mirror:
                sources = _from_mirror(manifest, Path(mirror).expanduser())
            else:
                sources = _download(manifest, partial, progress)
            for file, source in zip(manifest["files"], sources, strict=True):
                if manifest.kind == "results":  # known by its sha256: there is nothing to fear
                    shutil.unpack_archive(source, content, "zip")
                else:
                    (content / file["path"]).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, content / file["path"])
            files = {}
            for path in _files_in(content):
                files[path.relative_to(content).as_posix()] = [path.stat().st_size, sha256(path)]
            stamp = json.dumps({"manifest": manifest.fingerprint, "files": files}, indent=0)
            (content / STAMP).write_text(stamp, encoding="utf-8")
            if target.exists() and not _is_whole(target, manifest):
                aside = work
                if not (target / STAMP).exists():  # not made by fetch(): may be somebody's work
                    aside = tempfile.mkdtemp(prefix=f"{name}.old", dir=root)
                shutil.move(target, aside)
            os.replace(content, target)
    except OSError as error:
        # If it is whole, another process was faster, and cleared away what this one worked on.
        if not _is_whole(target, manifest):
            if isinstance(error, DownloadError):
                raise
            raise DownloadError(
                f"{error.filename or root}: {error.strerror or error}; expected a folder with room "
                "that can be written. Name another with --data or GMMT_DATA"
            ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.rmdir()  # goes only if nothing was downloaded
    shutil.rmtree(partial, ignore_errors=True)
    return target


def _is_whole(target: Path, manifest: Manifest) -> bool:
    return not any(changes(target, manifest, thorough=False))


def changes(target: Path, manifest: Manifest, thorough: bool = True) -> Iterator[str]:
    """What is wrong with a fetched folder, line by line; `thorough`: also hashes and strays."""
    advice = f"Delete {target} and run 'gmmt fetch {manifest.name}'"
    stamp = read_json(target / STAMP)
    if not isinstance(stamp, dict) or stamp.get("manifest") != manifest.fingerprint:
        yield (
            f"{target / STAMP}: absent, or not of this manifest; expected the list of fetched "
            f"files. {advice}"
        )
        return
    files = {target / path: entry for path, entry in stamp["files"].items()}
    for path, (size, digest) in files.items():
        if not holds(path, size, digest if thorough else None):
            state = "changed" if path.is_file() else "missing"
            yield f"{path}: {state}; expected {size} bytes with sha256 {digest}. {advice}"
    if thorough:
        for path in _files_in(target):
            if path not in files:
                expected = f"expected only its {len(files)} files. Move it elsewhere"
                yield f"{path}: is no part of {manifest.name}; {expected}"


def holds(path: Path, size: int | None, digest: str | None) -> bool:
    """Whether `path` is a file of this size and sha256; what is None is not compared."""
    if not path.is_file() or size not in (None, path.stat().st_size):
        return False
    return digest is None or sha256(path) == digest


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: Path) -> list[Path]:
    """The files below, in order, without the stamp and what systems hide."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [p for p in found if not any(map(is_hidden, p.relative_to(folder).parts))]


def _from_mirror(manifest: Manifest, mirror: Path) -> list[Path]:
    """Where in `mirror` each file of the manifest lies, with the right bytes."""
    places, found = {}, []
    for path in mirror.rglob("*"):
        places.setdefault(path.name, []).append(path)
    for file in manifest["files"]:
        size, digest = file["bytes"], file["sha256"]
        named = places.get(Path(file["path"]).name, [])
        right = [path for path in named if holds(path, size, digest)]
        if not right:
            raise DownloadError(
                f"{mirror} holds no {file['path']} of {size} bytes, sha256 {digest}, which "
                f"{manifest.name}.json expects. Get it from {manifest['source']}, or correct "
                "--mirror or GMMT_MIRROR; without them it is downloaded"
            )
        found.append(right[0])
    return found


def _download(manifest: Manifest, folder: Path, progress: bool) -> list[Path]:
    """The files of the manifest in `folder`, downloaded unless an earlier run left them there."""
    import pooch
    import requests
    from tqdm import tqdm

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=(5, 60))

    def download(file: dict) -> Path:
        path, failures = folder / file["path"], []
        for base_url in manifest["base_urls"]:
            url = base_url + urllib.parse.quote(file["path"])
            try:
                # pooch renames a temporary file when its hash is right, and does nothing for one
                # that is there.
                known, place = f"sha256:{file['sha256']}", path.parent
                pooch.retrieve(url, known, path.name, place, downloader=downloader)
                return path
            except (requests.HTTPError, ValueError) as error:  # ValueError: another hash
                failures.append(f"{url}: {error}".rstrip("."))
            except requests.RequestException as error:  # whose own words are for programmers
                name = type(error).__name__
                failures.append(f"{url} could not be reached, or broke off ({name})")
        raise DownloadError(
            f"{file['path']} of {manifest.name} could not be downloaded: {'; '.join(failures)}. "
            "Check the network and try again, or put the file into a folder and name that: gmmt "
            f"fetch {manifest.name} --mirror FOLDER (or the environment variable GMMT_MIRROR)"
        )

    files = manifest["files"]
    with ThreadPoolExecutor(8) as pool:
        paths = pool.map(download, files)  # the first failure cancels the rest
        return list(tqdm(paths, manifest.name, len(files), unit="file", disable=not progress))


def instructions(name: str, data: Path | str | None = None) -> str:
    """How to get `name`: where from, its licence, where to put it, its quirks, how to check it."""
    manifest, target = load(name), Path(data or data_dir()) / name
    lines = [
        manifest.title,
        f"Run: gmmt fetch {name}" if manifest.automatic else f"Put it into: {target}",
    ]
    facts = {**manifest.get("layout", {}), **manifest}
    for link in facts.get("downloads") or facts.get("entries") or []:
        known = [f"{field}: {value}" for field, value in link.items() if value]
        lines.append(f"- {', '.join(known)}")
    for field in ("tree", "note", "source", "homepage", "licence", "citation", "quirks", "unknown"):
        values = facts.get(field, [])
        for value in values if isinstance(values, list) else [values]:
            lines.append(f"{field}: {value or 'not known; ask the authors'}")
    return "\n".join([*lines, f"Check it with: gmmt verify {name}"])

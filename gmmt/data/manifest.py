"""Data manifests (data_manifests/*.json): what data there is, where it is from, how it is fetched
and how it is checked.
"""

import contextlib
import difflib
import hashlib
import json
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gmmt.errors import DownloadError, ManifestError
from gmmt.files import data_dir, manifest_dir

# The file that fetch() writes last: a folder without it is not whole. It holds size and sha256 of
# every file beside it.
STAMP = ".gmmt.json"


class Manifest(dict):
    """The fields of one checked manifest (data_manifests/README.md lists them); name, kind and
    title are attributes, too.
    """

    def __init__(self, content: dict):
        super().__init__(content)
        self.name, self.kind, self.title = content["name"], content["kind"], content["title"]
        self.automatic = self.kind in (
            "results",
            "images",
        )  # fetch() can get it; if not, instructions() say how a person can
        decisive = [
            self.get("files"),
            self.get("unpacked"),
        ]  # a new note or title does not make anyone download again
        self.fingerprint = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def load(name: str) -> Manifest:
    """Returns the manifest called `name`; raises ManifestError for an unknown name or a file that
    does not fit schema.json.
    """
    import jsonschema

    folder, known = manifest_dir(), _names()
    if name not in known:
        hint = "".join(
            f" Did you mean {close!r}?"
            for close in difflib.get_close_matches(name.lower(), known, n=1)
        )
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
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(content))
    if errors:
        lines = [
            f"{e.json_path}: {e.message:.300}; expected "
            f"{e.schema.get('description', 'what README.md says of it')}"
            for e in errors
        ]
        raise ManifestError("\n  ".join([f"{path} does not fit schema.json; correct", *lines]))
    return Manifest(content)


def load_all() -> dict[str, Manifest]:
    """Returns every manifest by name; raises ManifestError at the first that does not fit
    schema.json.
    """
    return {name: load(name) for name in _names()}


def _names() -> list[str]:
    return sorted(path.stem for path in manifest_dir().glob("*.json") if path.stem != "schema")


def fetch(
    name: str,
    mirror: Path | str | None = None,
    data: Path | str | None = None,
    progress: bool = True,
) -> Path:
    """Returns the folder <data>/<name> with every file of the manifest, each checked by size and
    sha256, archives unpacked.

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
    if not any(changes(target, manifest, thorough=False)):
        return target
    mirror = mirror or os.environ.get("GMMT_MIRROR")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=partial, ignore_cleanup_errors=True) as work:
            content = Path(work, "content")
            sources = (
                _from_mirror(manifest, Path(mirror).expanduser())
                if mirror
                else _download(manifest, partial, progress)
            )
            for file, source in zip(manifest["files"], sources, strict=True):
                if manifest.kind == "results":
                    shutil.unpack_archive(
                        source, content, "zip"
                    )  # known by its sha256, so there is nothing to fear from it
                else:
                    (content / file["path"]).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, content / file["path"])
            files = {
                path.relative_to(content).as_posix(): [path.stat().st_size, sha256(path)]
                for path in _files_in(content)
            }
            (content / STAMP).write_text(
                json.dumps({"manifest": manifest.fingerprint, "files": files}, indent=0),
                encoding="utf-8",
            )
            if target.exists() and any(changes(target, manifest, thorough=False)):
                # What fetch() did not make may be somebody's work, and is kept.
                shutil.move(
                    target,
                    work
                    if (target / STAMP).exists()
                    else tempfile.mkdtemp(prefix=f"{name}.old", dir=root),
                )
            os.replace(content, target)
    except OSError as error:
        if any(
            changes(target, manifest, thorough=False)
        ):  # else another process was faster, and cleared away what this one was working on
            if isinstance(error, DownloadError):
                raise
            advice = (
                "expected a folder with room that can be written. Name another with --data or "
                "GMMT_DATA"
            )
            raise DownloadError(
                f"{error.filename or root}: {error.strerror or error}; {advice}"
            ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.rmdir()  # goes only if nothing was downloaded
    shutil.rmtree(partial, ignore_errors=True)
    return target


def changes(target: Path, manifest: Manifest, thorough: bool = True) -> Iterator[str]:
    """Yields what is wrong with the folder that fetch() made, one line each; only if `thorough`,
    hashes and stray files count.
    """
    advice = f"Delete {target} and run 'gmmt fetch {manifest.name}'"
    try:
        stamp = json.loads((target / STAMP).read_text(encoding="utf-8"))
        files = {
            target / path: entry
            for path, entry in stamp["files"].items()
            if stamp["manifest"] == manifest.fingerprint
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        files = {}
    if not files:
        yield (
            f"{target / STAMP}: absent, or not of this manifest; expected the list of fetched "
            f"files. {advice}"
        )
    for path, (size, digest) in files.items():
        if not holds(path, size, digest if thorough else None):
            yield (
                f"{path}: {'changed' if path.is_file() else 'missing'}; expected {size} bytes "
                f"with sha256 {digest}. {advice}"
            )
    for path in _files_in(target) if files and thorough else []:
        if path not in files:
            yield (
                f"{path}: is no part of {manifest.name}; expected only its {len(files)} files. "
                "Move it elsewhere"
            )


def holds(path: Path, size: int | None, digest: str | None) -> bool:
    """Returns whether `path` is a file of this size and sha256; what is None is not compared."""
    return (
        path.is_file()
        and size in (None, path.stat().st_size)
        and (digest is None or sha256(path) == digest)
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: Path) -> list[Path]:
    """Returns the files below `folder`, in order, without the stamp and what systems add by
    themselves (.DS_Store, Thumbs.db).
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.name != "Thumbs.db"
    )


def _from_mirror(manifest: Manifest, mirror: Path) -> list[Path]:
    """Returns where in `mirror` each file of the manifest lies, with the right bytes."""
    places, found = {}, []
    for path in mirror.rglob("*"):
        places.setdefault(path.name, []).append(path)
    for file in manifest["files"]:
        right = [
            path
            for path in places.get(Path(file["path"]).name, [])
            if holds(path, file["bytes"], file["sha256"])
        ]
        if not right:
            wanted = (
                f"{mirror} holds no {file['path']} of {file['bytes']} bytes, sha256 "
                f"{file['sha256']}"
            )
            advice = (
                f"Get it from {manifest['source']}, or correct --mirror or GMMT_MIRROR; without "
                "them it is downloaded"
            )
            raise DownloadError(f"{wanted}, which {manifest.name}.json expects. {advice}")
        found.append(right[0])
    return found


def _download(manifest: Manifest, folder: Path, progress: bool) -> list[Path]:
    """Returns the files of the manifest in `folder`, downloaded unless an earlier run left them
    there.
    """
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
                # pooch writes to a temporary name and renames only when the hash is right; it
                # returns at once if the file is there.
                pooch.retrieve(
                    url,
                    f"sha256:{file['sha256']}",
                    fname=path.name,
                    path=path.parent,
                    downloader=downloader,
                )
                return path
            except (
                requests.HTTPError,
                ValueError,
            ) as error:  # a ValueError is pooch's word for another hash
                failures.append(f"{url}: {error}".rstrip("."))
            except requests.RequestException as error:  # whose own words are for programmers
                failures.append(
                    f"{url} could not be reached, or broke off ({type(error).__name__})"
                )
        raise DownloadError(
            f"{file['path']} of {manifest.name} could not be downloaded: "
            f"{'; '.join(failures)}. Check the network and try again, or put "
            f"the file into a folder and name that: gmmt fetch {manifest.name} --mirror "
            "FOLDER (or the environment variable GMMT_MIRROR)"
        )

    with ThreadPoolExecutor(8) as pool:
        paths = pool.map(download, manifest["files"])  # the first failure cancels the rest
        return list(
            tqdm(
                paths,
                desc=manifest.name,
                total=len(manifest["files"]),
                unit="file",
                disable=not progress,
            )
        )


def instructions(name: str, data: Path | str | None = None) -> str:
    """Returns how to get `name`: where from, under which licence, where to put it, what is known to
    surprise, how to check it.
    """
    manifest, target = load(name), Path(data or data_dir()) / name
    lines = [
        manifest.title,
        f"Run: gmmt fetch {name}" if manifest.automatic else f"Put it into: {target}",
    ]
    facts = {**manifest.get("layout", {}), **manifest}
    for link in facts.get("downloads") or facts.get("entries") or []:
        lines.append(
            "- " + ", ".join(f"{field}: {value}" for field, value in link.items() if value)
        )
    for field in ("tree", "note", "source", "homepage", "licence", "citation", "quirks", "unknown"):
        values = facts.get(field, [])
        for value in values if isinstance(values, list) else [values]:
            lines.append(f"{field}: {value or 'not known; ask the authors'}")
    return "\n".join([*lines, f"Check it with: gmmt verify {name}"])


def verify(name: str, data: Path | str | None = None) -> list[str]:
    """Returns what is wrong with <data>/<name>, one line each (path, expected, what to do); an
    empty list means that all is well.

    Fetched files are compared by size and sha256, other data sets by layout; they may be there in
    part, with the folder of one split.
    """
    manifest, target = load(name), Path(data or data_dir()) / name
    if not target.is_dir():
        return [
            f"{target}: no such folder; expected {manifest.title}. Run 'gmmt fetch {name}', "
            "which gets it or says where to get it"
        ]
    check = {"weights": _check_weights, "dataset": _check_dataset}.get(manifest.kind, changes)
    return list(check(target, manifest))


def _check_weights(target: Path, manifest: Manifest) -> Iterator[str]:
    for entry in manifest["entries"]:
        advice = f"Get {entry['name']} from {entry['url'] or entry['source']}"
        for pattern in entry["files"]:
            for path in sorted(target.glob(pattern)) or [target / pattern]:
                if not holds(path, entry["bytes"], entry["sha256"]) or path.stat().st_size == 0:
                    expected = (
                        f"expected {entry['bytes'] or 'some'} bytes, sha256 "
                        f"{entry['sha256'] or 'not known'}, for {entry['used_by']}"
                    )
                    yield f"{path}: missing, or other content; {expected}. {advice}"


def _check_dataset(target: Path, manifest: Manifest) -> Iterator[str]:
    layout, splits = manifest["layout"], manifest["layout"]["splits"].values()
    present = [split for split in splits if (target / split["folder"]).is_dir()]
    if not present:
        folders = " and ".join(str(target / split["folder"]) for split in splits)
        yield f"{folders}: no such folder; expected {layout['tree']}. Unpack the data set so"
    names = [name for image in layout["images"] for name in image["folders"]]
    for split in present:
        folder, count, rows = target / split["folder"], split["count"], split["rows"] or {}
        there = [
            path
            for path in sorted(folder.glob("/".join("*" * split["depth"])))
            if any((path / name).is_dir() for name in names)
        ]
        there = [path for path in there if path.name in rows or not rows]
        lost = sorted(rows.keys() - {path.name for path in there})
        if lost or not there or count not in (None, len(there)):
            advice = (
                "Unpack the rest there (missing: "
                f"{', '.join(lost[:5]) or 'not known'}{', ...' if len(lost) > 5 else ''})"
            )
            yield (
                f"{folder}: {len(there)} sequence folders; expected {count or 'some'} "
                f"({layout['tree']}). {advice}"
            )
        for sequence in there:
            yield from _check_sequence(sequence, layout, rows.get(sequence.name))


def _check_sequence(sequence: Path, layout: dict, rows: int | None) -> Iterator[str]:
    """Yields what is wrong in one sequence's folder; `rows` is the number of ground-truth rows, if
    known.
    """
    images, annotations = [], []
    for image in layout["images"]:
        folders = [sequence / name for name in image["folders"]]
        folder = next(filter(Path.is_dir, folders), folders[0])
        endings = tuple(f".{ending}" for ending in image["extensions"])
        files = (
            [file for file in os.scandir(folder) if file.name.lower().endswith(endings)]
            if folder.is_dir()
            else []
        )
        images.append((folder, len(files), f"{image['modality']} images (*{', *'.join(endings)})"))
        for path in sorted(file.path for file in files if file.stat().st_size == 0)[:1]:
            yield f"{path}: an empty file; expected an image. Unpack the sequence again"
    for path in [sequence / name for name in layout["annotations"]]:
        text = (
            path.read_text(encoding="latin-1") if path.is_file() else ""
        )  # universal newlines: one file holds a lone carriage return
        annotations.append(
            (path, sum(bool(line.strip()) for line in text.split("\n")), "rows of ground truth")
        )
    frames = max(number for _, number, _ in images)
    if layout[
        "row_per_image"
        # Else image folders can only be compared with each other, and rows with what the manifest
        # says.
    ]:
        rows = frames = rows or max(number for _, number, _ in annotations) or frames
    allowed = layout["differences"].get(sequence.name, 0)
    for found, expected in ((images, frames), (annotations, rows)):
        for path, number, what in found:
            if not number or (
                expected and allowed is not None and abs(number - expected) > allowed
            ):
                advice = "Unpack the sequence again; 'gmmt fetch' names the known quirks"
                yield f"{path}: {number} {what}; expected {expected or 'some'}. {advice}"

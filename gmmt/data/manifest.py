"""Data manifests (data_manifests/*.json): what data there is, where it is from, how it is fetched and how it is checked."""

import contextlib
import difflib
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gmmt.data.archive import unpack
from gmmt.errors import DownloadError, ManifestError
from gmmt.files import atomic_write, data_dir, manifest_dir

STAMP = ".gmmt.json"
"""The file that fetch() writes last: a folder without it is not whole. It holds size and sha256 of every file beside it."""
TIMEOUT = (10, 60)
"""Seconds to wait for a connection, and between two pieces of an answer."""


@dataclass(frozen=True)
class Manifest:
    """One checked manifest; `manifest["field"]` gives a field of its file (data_manifests/README.md lists them)."""

    name: str
    kind: str
    title: str
    path: Path
    content: dict

    def __getitem__(self, field: str):
        return self.content[field]

    @property
    def automatic(self) -> bool:
        """Whether fetch() can get it; if not, instructions() say how a person can."""
        return self.kind in ("results", "images")

    @property
    def fingerprint(self) -> str:
        """A hash of what decides the fetched bytes, so that a new note or title does not make anyone download again."""
        decisive = [self.content.get("files"), self.content.get("unpacked")]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def load(name: str) -> Manifest:
    """Returns the manifest called `name`; raises ManifestError for an unknown name or a file that does not fit schema.json."""
    known = _names()
    if name not in known:
        close = difflib.get_close_matches(str(name).lower(), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ManifestError(f"{manifest_dir()}: no manifest is called {name!r}; expected one of {', '.join(known)}.{hint}")
    path = manifest_dir() / f"{name}.json"
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}, line {error.lineno}: not JSON ({error.msg}); mend that line or restore the file") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text (byte {error.start}); expected JSON. Restore the file") from None
    complaints = sorted(_complaint(text, error) for error in _validator().iter_errors(content))
    if not complaints and content["name"] != name:
        complaints = [(_line(text, ["name"]), f"name is {content['name']!r}; expected {name!r}, the file's own name. Correct it")]
    if complaints:
        line, complaint = complaints[0]
        more = f" ({len(complaints) - 1} more after this one)" if len(complaints) > 1 else ""
        raise ManifestError(f"{path}, line {line}: {complaint}{more}")
    return Manifest(name, content["kind"], content["title"], path, content)


def load_all() -> dict[str, Manifest]:
    """Returns every manifest by name; raises ManifestError at the first that does not fit schema.json."""
    return {name: load(name) for name in _names()}


def _names() -> list[str]:
    return sorted(path.stem for path in manifest_dir().glob("*.json") if path.stem != "schema")


def _validator():
    import jsonschema

    return jsonschema.Draft202012Validator(json.loads((manifest_dir() / "schema.json").read_text(encoding="utf-8")))


def _complaint(text: str, error) -> tuple[int, str]:
    """Returns the line of a schema violation, and what is wrong, what was expected and what to do."""
    place = list(error.absolute_path)
    if error.validator == "additionalProperties":
        fields = error.schema["properties"]
        extra = next(field for field in error.instance if field not in fields)
        close = difflib.get_close_matches(extra, fields, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "Remove it, or describe it in schema.json"
        return _line(text, [*place, extra]), f"unknown field {extra!r}; expected only {', '.join(fields)}. {hint}"
    if error.validator == "required":
        return _line(text, place), f"{error.message}. Add it, with null where it is not known"
    value = json.dumps(error.instance)
    value = value if len(value) <= 80 else value[:77] + "..."
    field = "/".join(map(str, place)) or "the file"
    return _line(text, place), f"{field} is {value}; expected {error.schema.get('description', error.message)}. Correct it"


def _line(text: str, place: list[str | int]) -> int:
    """Returns the line of the key or list item that `place` leads to, in a text that is valid JSON."""
    decode, skip = json.JSONDecoder().raw_decode, re.compile(r"[\s,:]*").match
    start = at = skip(text).end()
    for step in place:
        at += 1  # into the object or the list
        for index in itertools.count():
            start = at = skip(text, at).end()
            label = index
            if isinstance(step, str):
                label, at = decode(text, at)
                at = skip(text, at).end()
            if label == step:
                break
            at = decode(text, at)[1]
    return text.count("\n", 0, start) + 1


# --- fetch ---------------------------------------------------------------------------------------------------------------------------


def fetch(name: str, mirror: Path | str | None = None, data: Path | str | None = None, progress: bool = True) -> Path:
    """Returns the folder <data>/<name> with every file of the manifest, each checked by size and sha256, archives unpacked.

    What is there and unchanged in size is left alone. The folder belongs to fetch(): one that it made earlier is replaced, one that it
    did not make is set aside as <name>.old1. The folder appears in one step, so a killed run leaves nothing that looks whole; what
    it had downloaded stays in .<name>.partial for the next run.

    Args:
        name: a manifest of kind "results" or "images".
        mirror: folder that holds the same files, anywhere below it; then nothing is downloaded. Default: $GMMT_MIRROR.
        data: where to put the folder. Default: gmmt.files.data_dir().
        progress: whether to draw a progress bar for downloads.

    Raises:
        DownloadError: no network, not in the mirror, other bytes than stated, no room, or a data set that only a person can get.
    """
    manifest = load(name)
    root = Path(data) if data else data_dir()
    if not manifest.automatic:
        raise DownloadError(f"{name} cannot be downloaded by a program.\n\n{instructions(name, root)}")
    target, partial = root / name, root / f".{name}.partial"
    if _is_whole(target, manifest):
        return target
    mirror = mirror or os.environ.get("GMMT_MIRROR")
    rubbish = None
    try:
        partial.mkdir(parents=True, exist_ok=True)
        rubbish = work = Path(tempfile.mkdtemp(dir=partial))
        sources = _from_mirror(manifest, Path(mirror).expanduser()) if mirror else _download(manifest, partial, progress)
        content = work / "content"
        if manifest.kind == "results":
            unpack(sources[0], content, max_bytes=manifest["unpacked"]["bytes"])
        else:
            for file, source in zip(manifest["files"], sources, strict=True):
                (content / file["path"]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, content / file["path"])
        files = {path.relative_to(content).as_posix(): [path.stat().st_size, sha256(path)] for path in files_in(content)}
        with atomic_write(content / STAMP) as file:
            json.dump({"manifest": manifest.fingerprint, "files": files}, file, indent=0)
        if not _is_whole(target, manifest):  # if it is by now, another process was faster, and somebody may be reading there already
            if target.exists():
                ours = (target / STAMP).exists() or not any(target.iterdir())
                spare = (target.with_name(f"{name}.old{n}") for n in itertools.count(1))
                os.replace(target, work / "old" if ours else next(path for path in spare if not path.exists()))
            os.replace(content, target)
        rubbish = partial
    except OSError as error:
        if _is_whole(target, manifest):
            return target  # another process was faster, and cleared away what this one was working on
        if isinstance(error, DownloadError):
            raise
        advice = "expected a folder with room that can be written. Name another with --data or GMMT_DATA"
        raise DownloadError(f"{error.filename or root}: {error.strerror or error}; {advice}") from error
    finally:
        if rubbish:
            shutil.rmtree(rubbish, ignore_errors=True)
        with contextlib.suppress(OSError):
            partial.rmdir()  # goes only if nothing was downloaded
    return target


def stamped(target: Path, manifest: Manifest) -> dict[str, tuple[int, str]] | None:
    """Returns path -> (bytes, sha256) from the stamp, or None if it is absent, damaged or another manifest's."""
    try:
        stamp = json.loads((target / STAMP).read_text(encoding="utf-8"))
        files = {path: (int(size), str(digest)) for path, (size, digest) in stamp["files"].items()}
        return files if stamp["manifest"] == manifest.fingerprint else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_whole(target: Path, manifest: Manifest) -> bool:
    files = stamped(target, manifest)
    try:
        return files is not None and all((target / path).stat().st_size == size for path, (size, _) in files.items())
    except OSError:
        return False


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path) -> list[Path]:
    """Returns the files below `folder`, in order, without the stamp and what systems add by themselves (.DS_Store, Thumbs.db)."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".") and path.name != "Thumbs.db")


def _urls(manifest: Manifest, file: dict) -> list[str]:
    return [base + urllib.parse.quote(file["path"]) for base in manifest["base_urls"]]


def _from_mirror(manifest: Manifest, mirror: Path) -> list[Path]:
    """Returns where in `mirror` each file of the manifest lies, with the right bytes."""
    if not mirror.is_dir():
        raise DownloadError(f"{mirror}: no such folder; expected a mirror of {manifest.name}'s files. Correct --mirror or GMMT_MIRROR")
    places = {Path(file["path"]).name: [] for file in manifest["files"]}
    for folder, _, names in os.walk(mirror):
        for name in places.keys() & set(names):
            places[name].append(Path(folder, name))
    found = []
    for file in manifest["files"]:
        # Two folders of one data set may hold files of the same name: the one with the same relative path comes first.
        candidates = sorted(places[Path(file["path"]).name], key=lambda path, tail="/" + file["path"]: not path.as_posix().endswith(tail))
        good = (path for path in candidates if path.stat().st_size == file["bytes"] and sha256(path) == file["sha256"])
        path = next(good, None)
        if path is None:
            wrong = f"{mirror}: holds no {file['path']}, which {manifest.name} needs"
            if candidates:
                sizes = f"{candidates[0].stat().st_size} bytes, sha256 {sha256(candidates[0])}"
                wrong = f"{candidates[0]}: other bytes than {manifest.path.name} states: {sizes}"
            advice = f"Get it from {_urls(manifest, file)[0]}, or leave out --mirror and GMMT_MIRROR to download it"
            raise DownloadError(f"{wrong}; expected {file['bytes']} bytes, sha256 {file['sha256']}. {advice}")
        found.append(path)
    return found


def _download(manifest: Manifest, folder: Path, progress: bool) -> list[Path]:
    """Returns the files of the manifest in `folder`, downloaded unless an earlier run left them there."""
    import pooch
    from tqdm import tqdm

    pooch.get_logger().setLevel("WARNING")
    files = manifest["files"]
    bar = tqdm(desc=manifest.name, total=sum(file["bytes"] for file in files), unit="B", unit_scale=True, disable=not progress)
    with bar, ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(_download_one, manifest, file, folder) for file in files]
        paths = []
        try:
            for file, job in zip(files, jobs, strict=True):
                paths.append(job.result())
                bar.update(file["bytes"])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what fails for one file fails for hundreds: do not try them all
            raise
    return paths


def _download_one(manifest: Manifest, file: dict, folder: Path) -> Path:
    import pooch
    import requests

    path, failures, unreachable = folder / file["path"], [], set()
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=1 << 16)
    for url in _urls(manifest, file):
        host = urllib.parse.urlsplit(url).netloc
        if host in unreachable:
            continue
        try:
            # pooch writes to a temporary name and renames only when the hash is right; it returns at once if the file is there.
            pooch.retrieve(url, f"sha256:{file['sha256']}", fname=path.name, path=path.parent, downloader=downloader)
            if path.stat().st_size == file["bytes"]:
                return path
            failures.append(f"{url} gave {path.stat().st_size} bytes instead of {file['bytes']}")
        except requests.HTTPError as error:
            failures.append(f"{url} answered {error.response.status_code}")
        except (requests.Timeout, requests.ConnectionError) as error:
            unreachable.add(host)
            failures.append(f"{url} {'did not answer in time' if isinstance(error, requests.Timeout) else 'could not be reached'}")
        except (requests.RequestException, ValueError) as error:  # a ValueError is pooch's word for another hash
            other = f"gave other bytes than {manifest.path.name} states (expected sha256 {file['sha256']})"
            failures.append(f"{url} {'broke off' if isinstance(error, requests.RequestException) else other}")
    raise DownloadError(
        f"{file['path']} of {manifest.name} could not be downloaded: {'; '.join(failures)}. Check the network and try again, or "
        f"put the file into a folder and name that: gmmt fetch {manifest.name} --mirror FOLDER (or the environment variable GMMT_MIRROR)"
    )


# --- instructions --------------------------------------------------------------------------------------------------------------------


def instructions(name: str, data: Path | str | None = None) -> str:
    """Returns how to get `name`: where from, under which licence, where to put it, what is known to surprise, how to check it."""
    manifest = load(name)
    target = (Path(data) if data else data_dir()) / name
    head = [manifest.title, ""]
    tail = ["", f"Check it with: gmmt verify {name}"]
    if manifest.automatic:
        licence = manifest["licence"] or "not known"
        return "\n".join([*head, f"Get it with: gmmt fetch {name}", f"From: {manifest['source']}", f"Licence: {licence}", *tail])
    if manifest.kind == "weights":
        head += [manifest["note"] or "", "", f"Put what you need into: {target}", ""]
        for entry in manifest["entries"]:
            head += [f"- {entry['name']}: {' and '.join(entry['files']) or 'file name not known'}", f"    for {entry['used_by']}"]
            head += [f"    {_link(entry)}; licence: {entry['licence'] or 'not known'}"]
        return "\n".join(head + tail)
    layout, truth = manifest["layout"], manifest["ground_truth_mirror"]
    alone = f"{truth['folder']} in the package {truth['package']} {truth['version']}" if truth else "no copy is known"
    parts = [f"{split} in {target / part['folder']} ({part['count'] or 'some'} sequences)" for split, part in layout["splits"].items()]
    lines = [
        f"Homepage: {manifest['homepage']}",
        "Get it from:",
        *(f"  - {entry['what']}: {_link(entry)}" for entry in manifest["downloads"]),
        f"Licence: {manifest['licence'] or 'not known; ask the authors'}",
        f"Cite: {manifest['citation']}",
        f"Put it into: {target}",
        f"  so that it looks like this: {layout['tree']}",
        f"  {'; '.join(parts)}",
        f"Ground truth alone: {alone}",
        "Known quirks:" if manifest["quirks"] else "Known quirks: none",
        *(f"  - {quirk}" for quirk in manifest["quirks"]),
        f"Not known: {', '.join(manifest['unknown'])}",
    ]
    return "\n".join([*head, *lines, *tail])


def _link(entry: dict) -> str:
    code = f" (code {entry['code']})" if entry["code"] else ""
    note = f" ({entry['note']})" if entry.get("note") else ""
    return f"{entry['url'] or 'no link known'}{code}{note}"

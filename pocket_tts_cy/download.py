"""From a reference to a local file: paths, ``https://`` and ``hf://`` with their caches.

Every failure is one line that says which file, why, and what to do. Without a network the answer
comes within ten seconds, whatever time-outs and retries the libraries below have.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, urlsplit

from pocket_tts_cy.errors import DownloadError

if TYPE_CHECKING:
    from http.client import HTTPResponse

MAX_FILE_BYTES = 2 << 30
# Until the first answer of a server, name look-up included (which has no time-out of its own).
ANSWER_SECONDS = 8.0
# Between two pieces of a file.
STALL_SECONDS = 30.0
# A host that did not answer is not asked again for this long: loading a model asks several times.
UNREACHABLE_SECONDS = 30.0
PIECE_BYTES = 1 << 20

USE_EMBEDDED = 'check the network, or use the voice inside the package with language="embedded"'

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,16}")

_unreachable_until: dict[str, tuple[float, str]] = {}

T = TypeVar("T")


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub: ``hf://owner/name/path[@revision]``."""

    repository: str
    path: str
    revision: str | None

    @classmethod
    def parse(cls, reference: str) -> HubFile:
        """Take an ``hf://`` reference apart.

        Raises
        ------
        DownloadError
            The reference does not name a repository and a file in it.
        """
        owner, _, rest = reference.removeprefix("hf://").partition("/")
        name, _, path = rest.partition("/")
        path, at, revision = path.partition("@")
        parts = path.split("/")
        if (
            not _NAME.fullmatch(owner)
            or not _NAME.fullmatch(name)
            or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)
            or bool(at) != bool(re.fullmatch(r"[\w./-]+", revision, re.ASCII))
            or ".." in revision
        ):
            raise DownloadError(
                f"{reference!r} is not a reference of the form hf://owner/name/path[@revision]"
            )
        return cls(f"{owner}/{name}", path, revision or None)

    def __str__(self) -> str:
        return f"hf://{self.repository}/{self.path}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, so that a cached copy can never be outdated."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def resolve_path(ref: str | Path, base: Path | None = None) -> Path:
    """The local file behind a reference; fetches it when needed.

    Parameters
    ----------
    ref : str or Path
        An absolute path, a path relative to the working directory or else to ``base``, an
        ``https://`` or ``http://`` address, or ``hf://owner/name/path[@revision]``.
    base : Path, optional
        Folder of the file that holds the reference.

    Returns
    -------
    Path
        An existing file or folder.

    Raises
    ------
    FileNotFoundError
        A local path does not exist.
    DownloadError
        A remote file could not be fetched.
    """
    if isinstance(ref, str):
        if ref.startswith("hf://"):
            return _hub_file(HubFile.parse(ref))
        if ref.startswith(("http://", "https://")):
            return _web_file(ref)
    local = _local_path(ref, base)
    if local is None:
        looked = "" if base is None or Path(ref).is_absolute() else f" (nor in {base})"
        raise FileNotFoundError(f"File not found: {ref}{looked}")
    return local


def is_cached(ref: str | Path) -> bool:
    """Whether :func:`resolve_path` would need no network for a reference."""
    if isinstance(ref, str):
        if ref.startswith("hf://"):
            return _cached_hub_file(HubFile.parse(ref)) is not None
        if ref.startswith(("http://", "https://")):
            return _web_cache_path(ref).is_file()
    return _local_path(ref, None) is not None


def cache_folder() -> Path:
    """Folder of files fetched from the web: ``pocket_tts_cy`` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "pocket_tts_cy"


def _local_path(ref: str | Path, base: Path | None) -> Path | None:
    candidates = [Path(ref)] if base is None else [Path(ref), base / ref]
    for path in candidates:
        # A name with a NUL byte or of absurd length is answered with an error instead of "no".
        with suppress(OSError, ValueError):
            if path.exists():
                return path
    return None


def _within(seconds: float, function: Callable[[], T]) -> T:
    """Result of ``function``, or TimeoutError when it takes longer (it is then left alone)."""
    result: list[T] = []
    problem: list[BaseException] = []

    def run() -> None:
        try:
            result.append(function())
        except BaseException as error:
            problem.append(error)

    thread = threading.Thread(target=run, name="pocket-tts-cy-download", daemon=True)
    thread.start()
    thread.join(seconds)
    if result:
        return result[0]
    if problem:
        raise problem[0]
    raise TimeoutError(f"no answer within {seconds:g} seconds")


def _reason(error: BaseException) -> str:
    """The innermost cause of a network error, on one short line."""
    for _ in range(8):
        deeper = getattr(error, "reason", None)
        if not isinstance(deeper, BaseException):
            deeper = error.__cause__ or error.__context__
        if not isinstance(deeper, BaseException):
            break
        error = deeper
    text = " ".join(str(error).split())[:200]
    return text or type(error).__name__


# The hub.


def _hub_file(file: HubFile) -> Path:
    cached = _cached_hub_file(file)
    if cached is not None and file.is_pinned:
        return cached
    try:
        _ask_hub(file)
        return _fetch_from_hub(file)
    except DownloadError:
        # A copy of a branch may be outdated, but is better than nothing.
        if cached is not None:
            return cached
        raise


def _cached_hub_file(file: HubFile) -> Path | None:
    # Importing the library takes a while, and mostly there is nothing of this repository.
    if not (_hub_cache_folder() / f"models--{file.repository.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.repository, file.path, revision=file.revision)
    return Path(found) if isinstance(found, str) else None


def _hub_cache_folder() -> Path:
    """Where huggingface_hub keeps its files, by its documented environment variables."""
    for name, below in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        folder = os.environ.get(name)
        if folder:
            return Path(os.path.expandvars(folder)).expanduser() / below
    return Path.home() / ".cache" / "huggingface" / "hub"


def _ask_hub(file: HubFile) -> None:
    """Make sure that the hub answers and has the file, in bounded time.

    ``hf_hub_download`` on its own retries for minutes when there is no network.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub import utils as errors

    if constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"{file} is not in the local cache and HF_HUB_OFFLINE forbids fetching it; unset "
            'HF_HUB_OFFLINE, or use the voice inside the package with language="embedded"'
        )
    host = constants.ENDPOINT
    _refuse_if_unreachable(host, str(file))
    page = f"{host}/{file.repository}"
    url = huggingface_hub.hf_hub_url(file.repository, file.path, revision=file.revision)
    try:
        found = _within(
            ANSWER_SECONDS,
            lambda: huggingface_hub.get_hf_file_metadata(url, timeout=ANSWER_SECONDS),
        )
    except errors.GatedRepoError:
        raise DownloadError(
            f"{file} needs permission; accept the terms on {page} and log in with `hf auth login`, "
            'or use the voice inside the package with language="embedded"'
        ) from None
    except errors.RevisionNotFoundError:
        raise DownloadError(f"{file}: {page} has no revision {file.revision}") from None
    except errors.EntryNotFoundError:
        raise DownloadError(f"{file}: {page} has no such file") from None
    except errors.RepositoryNotFoundError:
        raise DownloadError(
            f"{file}: {page} does not exist or is private; check the name, or log in with "
            "`hf auth login`"
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise DownloadError(
                f"{file}: {host} refused access (HTTP {status}); accept the terms on {page} and "
                "check your token with `hf auth whoami`"
            ) from None
        raise DownloadError(
            f"{file}: {host} answered with HTTP {status}; try again later"
        ) from None
    except errors.FileMetadataError as error:
        raise DownloadError(f"{file}: {host} is not a usable hub: {_reason(error)}") from None
    except Exception as error:
        # The network exceptions of the library changed between its major versions.
        raise _unreachable(host, str(file), error) from None
    if found.size is not None and found.size > MAX_FILE_BYTES:
        raise DownloadError(f"{file}: {found.size} bytes exceed the limit of {MAX_FILE_BYTES}")


def _fetch_from_hub(file: HubFile) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.hf_hub_download(file.repository, file.path, revision=file.revision)
        )
    except OSError as error:
        raise _disk_problem(error, str(file), _hub_cache_folder()) from None
    except Exception as error:
        raise DownloadError(
            f"{file}: the download failed: {_reason(error)}; {USE_EMBEDDED}"
        ) from None


def _refuse_if_unreachable(host: str, what: str) -> None:
    until, reason = _unreachable_until.get(host, (0.0, ""))
    if time.monotonic() < until:
        raise DownloadError(f"{what}: cannot reach {host} ({reason}); {USE_EMBEDDED}")


def _unreachable(host: str, what: str, error: BaseException) -> DownloadError:
    reason = _reason(error)
    _unreachable_until[host] = (time.monotonic() + UNREACHABLE_SECONDS, reason)
    return DownloadError(f"{what}: cannot reach {host} ({reason}); {USE_EMBEDDED}")


def _disk_problem(error: OSError, what: str, folder: Path) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(f"{what}: the disk is full; make room in {folder} and try again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return DownloadError(f"{what}: cannot write to {folder}: {error.strerror}")
    return DownloadError(f"{what}: the download failed: {_reason(error)}; {USE_EMBEDDED}")


# The web.


def _web_cache_path(url: str) -> Path:
    suffix = os.path.splitext(_address(url).path)[1]
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    return cache_folder() / (digest + (suffix if _SUFFIX.fullmatch(suffix) else ""))


def _address(url: str) -> SplitResult:
    with suppress(ValueError):
        address = urlsplit(url)
        # Reading the port checks it.
        if address.hostname and (address.port is None or address.port > 0):
            return address
    raise DownloadError(f"{url[:200]!r} is not a usable address")


def _web_file(url: str) -> Path:
    target = _web_cache_path(url)
    if target.is_file():
        return target
    address = _address(url)
    # Without user, password and query, which can hold secrets.
    host = f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
    what = host + address.path
    _refuse_if_unreachable(host, what)
    response = _open(url, what, host)
    try:
        return _store(response, what, target)
    finally:
        response.close()


def _open(url: str, what: str, host: str) -> HTTPResponse:
    import http.client
    import urllib.error
    import urllib.request

    opener = urllib.request.OpenerDirector()
    # Only these: a redirect cannot lead to a local file or another protocol.
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "pocket-tts-cy"})
        return _within(ANSWER_SECONDS, lambda: opener.open(request, timeout=STALL_SECONDS))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            advice = "the server asks for permission; download it yourself and pass its path"
        elif error.code in (404, 410):
            advice = "there is no such file; check the address"
        else:
            advice = "try again later"
        raise DownloadError(f"{what}: HTTP {error.code}, {advice}") from None
    except (ValueError, UnicodeError, http.client.InvalidURL):
        raise DownloadError(f"{what}: not a usable address") from None
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(host, what, error) from None


def _store(response: HTTPResponse, what: str, target: Path) -> Path:
    """Write a response to ``target``, which appears only when it is complete."""
    import http.client
    import tempfile

    too_large = DownloadError(f"{what}: larger than the limit of {MAX_FILE_BYTES} bytes")
    length = response.length
    if length is not None and length > MAX_FILE_BYTES:
        raise too_large
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".part-")
        n_bytes = 0
        with open(handle, "wb") as file:
            while True:
                try:
                    piece = response.read(PIECE_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise DownloadError(
                        f"{what}: the connection broke after {n_bytes} bytes ({_reason(error)}); "
                        "try again"
                    ) from None
                if not piece:
                    break
                n_bytes += len(piece)
                if n_bytes > MAX_FILE_BYTES:
                    raise too_large
                file.write(piece)
        if length is not None and n_bytes != length:
            raise DownloadError(
                f"{what}: the connection broke after {n_bytes} of {length} bytes; try again"
            )
        os.replace(partial, target)
        partial = None
    except DownloadError:
        raise
    except OSError as error:
        raise _disk_problem(error, what, target.parent) from None
    finally:
        if partial is not None:
            with suppress(OSError):
                os.unlink(partial)
    return target

"""Opens a store by its address: a folder, or a URL that fsspec knows, e.g. s3://bucket/folder."""

from __future__ import annotations

import os
from pathlib import Path

from storage.digests import digest_bytes
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.secrets import require_no_secret
from storage.store import Store

Address = str | Path


def open_store(address: Address) -> Store:
    """The store at an address.

    Raises `FatalError` for an unusable address or one with a password, and `RetryableError` if a remote one is silent.
    """
    folder = local_folder(address)
    if not is_remote(address):
        return LocalStore(folder)
    from storage.remote_store import RemoteStore  # with fsspec, which local stores do without

    return RemoteStore(str(address), folder)


def existing_store(address: Address) -> Store:
    """A store that already exists, with its runs as they are now. Raises `FatalError` if there is no store."""
    remote, folder = is_remote(address), local_folder(address)
    if remote or (folder / "artifacts").is_dir():
        store = open_store(address)
        store.refresh()
        if not remote or store.stages() or (store.root / "runs").is_dir():
            return store
    raise FatalError(f"no store at {address if remote else folder}; name it with --store, or create one with rlip run")


def local_folder(address: Address) -> Path:
    """The folder of a local store, or the folder in which this machine keeps its copies of a remote store.

    The latter is in RLIP_CACHE, or else in `rlip` in the user's cache folder, and must be on a local disk. Raises
    `FatalError` for an empty address.
    """
    text = str(address)
    if not text:
        raise FatalError("no store given; name a folder, or a URL such as s3://bucket/folder")
    # Paths can't contain NUL, nor URLs a lone surrogate, Python's form of bytes that aren't UTF-8.
    if any(each == "\0" or "\ud800" <= each <= "\udfff" for each in text):
        raise FatalError(f"{text!r} is not the address of a store; name a folder, or a URL such as s3://bucket/folder")
    require_no_secret(text)
    if "://" not in text:
        return Path(text).expanduser() if text.startswith("~/") else Path(text)
    if is_remote(address):
        return cache_folder() / folder_name(text.rstrip("/"))
    import fsspec

    return Path(fsspec.filesystem("file")._strip_protocol(text))


def cache_folder() -> Path:
    """The folder of this machine's copies: RLIP_CACHE, or else `rlip` in the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("RLIP_CACHE") or f"{caches}/rlip").expanduser()


def is_remote(address: Address) -> bool:
    """Whether an address is a URL of another machine, and not a folder."""
    protocol, separator, _ = str(address).partition("://")
    return bool(separator) and protocol not in ("file", "local")


def folder_name(url: str) -> str:
    """A readable name for the folder that holds copies of a URL, different for each URL."""
    plain = "".join(c if c.isalnum() else "-" for c in url)[:60]
    return f"{plain}-{digest_bytes(url.encode())[:8]}"

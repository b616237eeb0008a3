"""Where the files of a saved encoder come from: a folder, or a repository on a Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from ..particles.errors import BadInput
from .entry import CONFIG, MODEL

_TIMEOUT = 5.0
"""Seconds to wait for a server's answer."""

_NO_PICKLES = "loading a pickle can run code: safetensors only"


class HubError(OSError):
    """A repository cannot be reached or refuses access; one line that says which and what to do."""


def is_unreachable(error: Exception) -> bool:
    """Whether no server answered: the library's transport is httpx or httpx2, whose exceptions are no OSError."""
    return isinstance(error, ConnectionError) or type(error).__module__.startswith("httpx")


class Store(Protocol):
    """Files by the names that ``config.json`` gives them.

    Attributes:
        source: the store's name, prefix included; a repository's with the commit.
        renewable: whether a damaged file may be repaired by getting it again.
    """

    source: str
    renewable: bool

    def label(self, name: str) -> str:
        """The name of a file in messages."""

    def get(self, name: str, *, again: bool = False) -> Path:
        """The path of a file on this machine; ``again`` ignores the copy that is here already."""


class Folder:
    """A folder; ``names`` says which files bear other names there."""

    renewable = False

    def __init__(self, source: str, folder: Path, names: Mapping[str, str] | None = None) -> None:
        self.source = source
        self.folder = folder
        self.names = names or {}

    def label(self, name: str) -> str:
        """The file's path."""
        return str(self.folder / self.names.get(name, name))

    def get(self, name: str, *, again: bool = False) -> Path:
        """The file's path; BadInput where there is none."""
        path = self.folder / self.names.get(name, name)
        if not self.folder.is_dir():
            raise BadInput(self.folder, "is not a folder", expected="the folder of a saved encoder")
        if not path.exists():
            inner = self.folder / "model"
            pickles = sorted(p.name for p in self.folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
            raise BadInput(
                self.folder,
                f"has no {path.name}" + (f", only {pickles[0]}" if pickles else ""),
                expected=f"a folder written by save_pretrained ({MODEL})",
                hint=_NO_PICKLES if pickles else f"perhaps {inner}" if (inner / path.name).exists() else None,
            )
        return path


class HubRepository:
    """A repository at one commit. What is in the local cache is used without asking the server.

    Args:
        repository: ``owner/name``.
        revision: 40 hexadecimal digits, or a branch or tag, which is resolved to its commit once.
        local_files_only: never ask the server.
    """

    def __init__(self, repository: str, revision: str, *, local_files_only: bool = False) -> None:
        self.repository = repository
        self.revision = revision
        self.renewable = not local_files_only
        self._reached = False
        if not self._pinned:
            self.revision = self.get(CONFIG).parent.name  # the cache has a folder for each commit
        self.source = f"hf-hub:{repository}@{self.revision}"

    @property
    def _pinned(self) -> bool:
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None

    def label(self, name: str) -> str:
        """Repository, commit and file."""
        return f"hf-hub:{self.repository}@{self.revision}, {name}"

    def get(self, name: str, *, again: bool = False) -> Path:
        """Download a file, unless it is in the local cache.

        Raises:
            HubError: the repository cannot be reached, does not exist, or wants a login.
            BadInput: the repository has no such file.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        def download(**how: Any) -> Path:
            return Path(hf_hub_download(self.repository, name, revision=self.revision, etag_timeout=_TIMEOUT, **how))

        with self._explained(name):
            if not self.renewable:
                return download(local_files_only=True)
            if self._pinned and not again:
                with suppress(LocalEntryNotFoundError):
                    return download(local_files_only=True)
            if not self._reached:
                # Where there is no server this fails at once; a download would go on trying for 20 seconds. An answer,
                # even a bad one, is the download's to judge: it tries again when a server is busy.
                with suppress(HfHubHTTPError):
                    get_hf_file_metadata(hf_hub_url(self.repository, name, revision=self.revision), timeout=_TIMEOUT)
                self._reached = True
            return download(force_download=again)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn the library's many exceptions into one line each."""
        from huggingface_hub import errors

        label = self.label(name)
        try:
            yield
        except errors.LocalEntryNotFoundError as error:
            if isinstance(answer := error.__cause__, errors.HfHubHTTPError):
                raise HubError(f"{label}: the server answers with status {answer.response.status_code}") from None
            raise HubError(f"{label}: not in the local cache, and the server was not asked or not found") from None
        except errors.EntryNotFoundError:
            hint = _NO_PICKLES if name == MODEL else None
            raise BadInput(label, "no such file", expected="an encoder saved by cryozoo", hint=hint) from None
        except errors.GatedRepoError:
            raise HubError(f"{label}: access must be granted on the repository's page, then `hf auth login`") from None
        except errors.RepositoryNotFoundError:
            hint = "`hf auth login` if it is yours; `cryozoo list --pretrained` has others"
            raise HubError(f"{label}: no such repository, or it is private: {hint}") from None
        except errors.RevisionNotFoundError:
            raise HubError(f"{label}: the repository has no such commit, branch or tag") from None
        except errors.HfHubHTTPError as error:
            raise HubError(f"{label}: the server answers with status {error.response.status_code}") from None
        except Exception as error:
            if not is_unreachable(error):
                raise
            hint = "HF_ENDPOINT names a mirror; offline there are local_files_only=True for what is in the cache, and "
            hint += "local-dir:FOLDER"
            raise HubError(f"{label}: the server cannot be reached ({type(error).__name__}); {hint}") from None

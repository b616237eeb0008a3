"""Publishing a saved encoder to a repository of a Hugging Face Hub: all of its files in one commit, or nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import click

from ..particles.errors import BadInput
from ._model_card import MAP_PICTURE, model_card, pictures
from ._stores import HubError, HubRepository, is_unreachable
from .embed import restate
from .encoder import PoseEncoder
from .entries import get_entry, list_encoders
from .entry import CARD, CONFIG
from .pretrained import config_bytes, load_pretrained, open_store, save_pretrained

PUBLISHED = "published"
"""Field of an embedded entry: where it is published, too."""


class Published(NamedTuple):
    """What became of a publication.

    Attributes:
        source: ``hf-hub:owner/repo@<commit>``, by which it is loaded.
        changed: whether the repository was another one before.
    """

    source: str
    changed: bool


def repository_files(name: str, repository: str) -> dict[str, bytes]:
    """What a repository of an encoder holds, by file name; the pictures of its card need matplotlib.

    Args:
        name: as of :func:`load_pretrained`, which checks everything first.
        repository: ``owner/repo``, for the card.
    """
    encoder = load_pretrained(name)
    store, entry = open_store(name)
    config = json.loads(store.get(CONFIG).read_bytes())
    for field in ("source", PUBLISHED):
        config.pop(field, None)
    files = {CONFIG: config_bytes(config)}
    files[CARD] = model_card(replace(entry, source=f"hf-hub:{repository}")).encode()
    files |= {file: store.get(file).read_bytes() for file in entry.files}
    return files | {picture: _drawn(picture, encoder) for picture in pictures(entry)}


def _drawn(picture: str, encoder: PoseEncoder) -> bytes:
    """A picture of the card, as PNG."""
    from .figures import frame_figure, noise_figure, png_bytes

    assert encoder.entry is not None
    return png_bytes(frame_figure(encoder) if picture == MAP_PICTURE else noise_figure(encoder.entry))


def publish(name: str, repository: str, *, private: bool = False) -> Published:
    """Put an encoder into a repository, which is made where there is none, and load it from there.

    All files come in one commit: a repository that is read meanwhile, or after a failure, is the old or the new one.
    Where the repository has the same files already nothing is done.

    Args:
        name: as of :func:`load_pretrained`.
        repository: ``owner/repo``; the token is the one of ``hf auth login`` or ``HF_TOKEN``.
        private: make the repository private, where it is made.

    Raises:
        BadInput: the encoder is damaged, or the repository holds something else.
        HubError: the repository cannot be reached or written; or what is loaded from there is not the same.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files, entry = repository_files(name, repository), open_store(name)[1]
    where = f"hf-hub:{repository}"
    with _explained(where):
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        head = api.model_info(repository)
        there = {file.rfilename for file in head.siblings or []} - {".gitattributes"}
        if strangers := sorted(there - files.keys()):
            hint = "choose another repository, or delete what is in this one"
            raise BadInput(where, f"holds {strangers[0]}, which is no part of an encoder", hint=hint)
        old = None if CONFIG not in there or head.sha is None else HubRepository(repository, head.sha)
        if old is not None and all(f in there and old.get(f).read_bytes() == files[f] for f in (CONFIG, CARD)):
            return Published(old.source, changed=False)
        operations = [CommitOperationAdd(file, data) for file, data in files.items()]
        commit = api.create_commit(repository, operations, commit_message=entry.full_name)
    source = f"{where}@{commit.oid}"
    found = load_pretrained(source).entry  # which holds every file to what is said of it here
    if found is None or found.files != entry.files:
        raise HubError(f"{source}: not what was sent")
    return Published(source, changed=True)


def push_to_hub(encoder: PoseEncoder, repository: str, *, private: bool = False, **saved: Any) -> str:
    """Publish an encoder that is not in files: :func:`save_pretrained`, and :func:`publish`.

    Args:
        encoder: as of :func:`save_pretrained`.
        repository: ``owner/repo``.
        private: make the repository private, where it is made.
        **saved: the other arguments of :func:`save_pretrained`, such as ``metrics``, ``recipe`` and ``tag``.

    Returns:
        ``hf-hub:owner/repo@<commit>``, by which it is loaded.

    Raises:
        BadInput, HubError: as those two.
    """
    with tempfile.TemporaryDirectory() as scratch:
        save_pretrained(encoder, f"{scratch}/model", **saved)
        return publish(f"local-dir:{scratch}/model", repository, private=private).source


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn the library's exceptions into one line each."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise HubError(f"{where}: nobody is logged in: `hf auth login`, or HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = "; `hf auth login` with a token that may write there" if status in (401, 403, 404) else ""
        raise HubError(f"{where}: the server answers with status {status}{hint}") from None
    except errors.HFValidationError as error:
        raise BadInput(where, str(error).split("\n")[0], expected="owner/repo") from None
    except Exception as error:
        if not is_unreachable(error):
            raise
        raise HubError(
            f"{where}: the server cannot be reached ({type(error).__name__}); nothing is published"
        ) from None


@click.command()
@click.argument("owner")
def main(owner: str) -> None:
    """Publish every embedded encoder to a repository of OWNER's, and pin its commit in the entry."""
    for name in list_encoders(pretrained=True):
        if get_entry(name).source == "embedded":
            published = publish(name, f"{owner}/cryozoo-{name.partition('.')[2]}")
            restate(name, **{PUBLISHED: published.source})
            click.echo(f"{name}: {published.source}{'' if published.changed else ' has it already'}")


if __name__ == "__main__":
    main()

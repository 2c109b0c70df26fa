"""The files of a dataset repository on the Hugging Face hub, with their sizes and checksums.

Only the list is asked for through `huggingface_hub`, which knows endpoints and tokens. The files themselves come by
`feature_cache.downloading`: it goes on within a file after a kill and compares checksums, which the hub's client does
not do for files of many gigabytes.
"""

import os
from fnmatch import fnmatch
from textwrap import shorten

from feature_cache.downloading import first_cause
from feature_cache.errors import UserError
from feature_cache.sources.plan import Checksum, Part
from feature_cache.sources.provenance import Hub

IGNORED = (".gitattributes", "README.md", ".gitignore")


class HubError(UserError):
    """The hub does not answer, or does not have what is asked for."""


def hub_parts(hub: Hub) -> list[Part]:
    """The files of the repository's newest revision that match its patterns, sorted by path.

    The environment variable HF_ENDPOINT names another server than https://huggingface.co.

    Raises `HubError` if the hub cannot be reached or has no such files.
    """
    from huggingface_hub import HfApi, hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        info = HfApi(endpoint=endpoint).dataset_info(hub.repo, files_metadata=True)
    except (OSError, ValueError) as error:  # all errors of the hub's client and of the network are one of these
        reason = shorten(str(first_cause(error)), 160).rstrip(".")
        raise HubError(
            f"The files of {hub.repo} cannot be listed: {reason}. Check the network; where a mirror stands in "
            "for https://huggingface.co, set HF_ENDPOINT to its address."
        ) from error
    parts = []
    for file in sorted(info.siblings or [], key=lambda file: file.rfilename):
        path = file.rfilename
        if path in IGNORED or not any(fnmatch(path, pattern) for pattern in hub.patterns):
            continue
        url = hf_hub_url(hub.repo, path, repo_type="dataset", revision=info.sha, endpoint=endpoint)
        checksum = Checksum("sha256", file.lfs.sha256) if file.lfs else _git(file.blob_id)
        parts.append(Part(path, url, file.size, checksum))
    if not parts:
        raise HubError(f"The repository {hub.repo} has no files like {', '.join(hub.patterns)}; it has changed.")
    return parts


def _git(blob: str | None) -> Checksum | None:
    return Checksum("git-sha1", blob) if blob else None

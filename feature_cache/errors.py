"""The errors a user of the feature cache can meet: one paragraph each, what is wrong and what to run.

Each is a `UserError`: a command line prints its message alone, without a traceback.
"""

from pathlib import Path


class UserError(Exception):
    """Something that the user, not the programmer, can put right; its message says how."""


class CacheError(UserError):
    """A feature cache is absent, unfinished or damaged, or what is to be written into it is not valid."""


class MediaError(UserError):
    """The raw media of a dataset are absent or not what the dataset expects."""


class UnknownNameError(UserError):
    """A name that its registry does not have; the message lists the nearest ones that it has."""


def extract_command(folder: Path, overwrite: bool = False) -> str:
    """The command that makes the cache in `folder`, which is called `<cache_dir>/<encoder>/<dataset>`.

    >>> extract_command(Path("caches/pocketbind/emoji"))
    'python extract_features.py --encoder=pocketbind --dataset=emoji --cache_dir=caches'
    """
    if len(folder.parts) < 2:
        folder = folder.absolute()
    flags = f"--encoder={folder.parent.name} --dataset={folder.name} --cache_dir={folder.parent.parent}"
    return f"python extract_features.py {flags}{' --overwrite' if overwrite else ''}"


class DamagedCacheError(CacheError):
    """One file of a cache is not what the manifest says.

    Attributes:
        path: the file.
        what: what was expected of it, and what was found.
    """

    def __init__(self, path: Path, what: str, overwrite: bool = False) -> None:
        """`overwrite`: the damage does not show in the file's length, by which an extraction knows what to redo."""
        self.path = path
        self.what = " ".join(what.split())
        super().__init__(
            f"The feature cache {path.parent} is damaged at {path.name}: {self.what}. To make it again, run "
            f"`{extract_command(path.parent, overwrite)}`; if the cache is under version control, "
            f"`git checkout -- {path.parent}` brings it back."
        )

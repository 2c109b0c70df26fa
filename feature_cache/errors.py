"""The errors a user of the feature cache can meet: one paragraph each, what is wrong and what to run.

Each is a `UserError`: a command line prints its message alone, without a traceback.
"""

import shlex
from pathlib import Path


class UserError(Exception):
    """Something that the user, not the programmer, can put right; its message says how."""


class CacheError(UserError):
    """A feature cache is absent, unfinished or damaged, or what is to be written into it is not valid."""


class MediaError(UserError):
    """The raw media of a dataset are absent or not what the dataset expects."""


class WeightsError(UserError):
    """The weights of an encoder are missing, damaged, or of another network."""


class UnknownNameError(UserError):
    """A name that its registry does not have; the message lists the nearest ones that it has."""


def extract_command(folder: Path) -> str:
    """The command that makes the cache in `folder`, which is called `<cache_dir>/<encoder>/<dataset>`.

    >>> extract_command(Path("caches/pocketbind/emoji"))
    'python extract_features.py --encoder=pocketbind --dataset=emoji --cache_dir=caches'
    >>> extract_command(Path("caches/synthetic/esc50"))
    'python -m feature_cache.synthetic --dataset=esc50 --cache_dir=caches'
    """
    if len(folder.parts) < 2:
        folder = folder.absolute()
    made = ["extract_features.py", f"--encoder={folder.parent.name}"]
    made = ["-m", "feature_cache.synthetic"] if folder.parent.name == "synthetic" else made
    return shlex.join(["python", *made, f"--dataset={folder.name}", f"--cache_dir={folder.parent.parent}"])


class DamagedCacheError(CacheError):
    """One file of a cache is not what the manifest says.

    Attributes:
        path: the file.
        what: what was expected of it, and what was found.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = " ".join(what.split())
        super().__init__(
            f"The feature cache {path.parent} is damaged at {path.name}: {self.what}. To make that file again, delete "
            f"it (`rm -rf {shlex.quote(str(path))}`) and run `{extract_command(path.parent)}`; if the cache is under "
            f"version control, `git checkout -- {shlex.quote(str(path.parent))}` brings it back."
        )

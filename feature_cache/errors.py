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

    What the folder's name does not tell is in capitals: the table of somebody's own media, and where features of
    somebody's own encoder come from.

    >>> extract_command(Path("caches/pocketbind/emoji"))
    'python extract_features.py --encoder=pocketbind --dataset=emoji --cache_dir=caches'
    >>> extract_command(Path("caches/pocketbind/birds"))
    'python extract_features.py --encoder=pocketbind --dataset=folder --pairs=TABLE --name=birds --cache_dir=caches'
    >>> extract_command(Path("caches/mine/birds"))
    'python extract_features.py import --from=FORMAT --path=FILES --encoder=mine --dataset=birds --cache_dir=caches'
    >>> extract_command(Path("caches/synthetic/esc50"))
    'python -m feature_cache.synthetic --dataset=esc50 --cache_dir=caches'
    """
    from feature_cache import datasets, encoders  # which import this module

    if len(folder.parts) < 2:
        folder = folder.absolute()
    encoder, dataset = folder.parent.name or "ENCODER", folder.name
    if encoder == "synthetic":
        made = ["-m", "feature_cache.synthetic", f"--dataset={dataset}"]
    elif encoder not in encoders.REGISTRY:
        made = ["extract_features.py", "import", "--from=FORMAT", "--path=FILES", f"--encoder={encoder}"]
        made.append(f"--dataset={dataset}")
    elif dataset not in datasets.REGISTRY:
        made = ["extract_features.py", f"--encoder={encoder}", "--dataset=folder", "--pairs=TABLE", f"--name={dataset}"]
    else:
        made = ["extract_features.py", f"--encoder={encoder}", f"--dataset={dataset}"]
    return shlex.join(["python", *made, f"--cache_dir={folder.parent.parent}"])


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

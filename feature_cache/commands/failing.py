"""How commands end: an error is a paragraph that says what to do, and an exit code."""

import os
import sys
from collections.abc import Callable

from rich.console import Console

from feature_cache.errors import UserError


def run(action: Callable[[], int], console: Console) -> int:
    """The action's exit code; 1, with what is wrong on the console, for an error that a user can put right."""
    try:
        return action()
    except UserError as error:
        said = str(error)
    except ImportError as error:
        said = (
            f"{error}. This format needs a package that is not there; to get it, run `make extract-deps`, or for tfds "
            "`pip install tensorflow-datasets array_record`."
        )
    except BrokenPipeError:  # as of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 1
    except OSError as error:
        path = error.filename2 or error.filename or "a file"
        said = f"{path}: {error.strerror or error}. Put that right, and try again."
    except MemoryError:
        said = "out of memory; choose a smaller --shard_size, or a format that is read in pieces: parquet, webdataset."
    except KeyboardInterrupt:
        console.print("Stopped. Give the same command again to start over.")
        return 130
    console.print(said, markup=False, style="red")
    return 1

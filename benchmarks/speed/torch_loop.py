"""The whole run as a plain PyTorch loop with the public reference's semantics: `plan.py` says on what.

Linear heads start as the identity. A step trains its two heads with cross-entropy from A to B, gradients clipped to a
global norm, then (DNS, from the second step on) projected on both sides by dense products, a fresh AdamW that decays
weights and not biases, and a linear decay of the learning rate. After it, second moments of inputs and of the partner's
outputs are blended by one counter of rows. Evaluation is over all tasks, before the first and after every step.

It has PyTorch's best settings: all cores, the fused AdamW, gradients set to None, `inference_mode` in evaluation,
features of a step gathered from one tensor, symmetric eigendecompositions, and no value read within a step.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.speed.measuring import peak_memory, resident_memory
from benchmarks.speed.torch_evaluation import accuracy, retrieval
from feature_cache import FeatureCache, open_cache

Heads = dict[str, nn.Linear]
Projectors = dict[str, tuple[Tensor, Tensor]]


class Moments:
    """What DNS remembers: second moments of inputs and of partner outputs, and how many rows there were in all."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.partner_outputs: dict[str, Tensor] = {}
        self.rows = 0

    @torch.inference_mode()
    def remember(self, heads: Heads, rows: dict[str, Tensor]) -> None:
        """Blends in the rows of a step; outputs are those of its heads now, without bias."""
        (a, x_a), (b, x_b) = rows.items()
        outputs = {a: x_b @ heads[b].weight.T, b: x_a @ heads[a].weight.T}
        for modality, x in rows.items():
            self.inputs[modality] = self._blended(self.inputs.get(modality), x)
            self.partner_outputs[modality] = self._blended(self.partner_outputs.get(modality), outputs[modality])
        self.rows += len(x_a)

    def _blended(self, old: Tensor | None, x: Tensor) -> Tensor:
        moment: Tensor = x.T @ x
        if old is not None:
            moment.add_(old, alpha=self.rows)
        moment.div_(self.rows + len(x))
        return moment

    @torch.inference_mode()
    def projectors(self, modality: str, like: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """`P_in` and `P_out` of a head; zeros for one that met nothing."""
        if modality not in self.inputs:
            return torch.zeros_like(like), torch.zeros_like(like)
        return _projector(self.inputs[modality], threshold), _projector(self.partner_outputs[modality], 0.0)


def _projector(moment: Tensor, threshold: float) -> Tensor:
    """Onto the directions whose singular value, the eigenvalue's size, is above the threshold."""
    values, vectors = torch.linalg.eigh(moment)
    kept: Tensor = vectors[:, values.abs() > threshold]
    return torch.matmul(kept, kept.T)


def train_step(
    heads: Heads, rows: dict[str, Tensor], order: Tensor, projectors: Projectors | None, training: dict[str, Any]
) -> Tensor:
    """Trains the heads of one step; the losses `(epochs,)`, means over batches."""
    (a, x_a), (b, x_b) = rows.items()
    layers, size = (heads[a], heads[b]), training["batch_size"]
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    groups = [
        {"params": [layer.weight for layer in layers], "weight_decay": training["weight_decay"]},
        {"params": [layer.bias for layer in layers], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=training["learning_rate"], betas=(0.9, 0.999), eps=1e-8, fused=True)
    targets = torch.arange(size, device=x_a.device)
    batches = -(-len(x_a) // size)
    losses = torch.zeros(len(order), dtype=x_a.dtype, device=x_a.device)
    for epoch, of_epoch in enumerate(order):
        for i, chosen in enumerate(of_epoch.split(size)):
            scores = heads[a](x_a[chosen]) @ heads[b](x_b[chosen]).T / training["temperature"]
            loss = functional.cross_entropy(scores, targets[: len(chosen)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, training["clip_norm"])
            if projectors is not None:
                for modality in (a, b):
                    _project(heads[modality], *projectors[modality])
            left = 1 - (epoch * batches + i) / (len(order) * batches)
            for group in optimizer.param_groups:
                group["lr"] = training["learning_rate"] * left
            optimizer.step()
            losses[epoch] += loss.detach() / batches
    return losses


def _project(layer: nn.Linear, p_in: Tensor, p_out: Tensor) -> None:
    gradient = layer.weight.grad
    assert gradient is not None
    gradient.sub_(p_out @ (gradient @ p_in))


class Run:
    """One run over a plan's stream; `seconds` by what was done."""

    def __init__(self, plan: Path, device: str = "cpu") -> None:
        self.plan = json.loads(plan.read_text())
        self.shared = dict(np.load(plan.with_suffix(".npz")))
        self.device = torch.device(device)
        self.dtype = getattr(torch, self.plan["dtype"])
        self._steps = self.plan["steps"], self.plan["pairs"]
        self.seconds = {"reading": 0.0, "training": 0.0, "evaluation": 0.0}
        with self._timed("reading"):
            root = Path(self.plan["cache_dir"]) / self.plan["encoder"]
            self.caches = {name: open_cache(root / name) for name, _, _ in self.plan["steps"]}
            self.test = [self._test(step, pair) for step, pair in zip(*self._steps, strict=True)]
            self.heads = self._identity_heads()

    def finish(self, dns: bool) -> dict[str, Any]:
        """Trains the stream; losses `[step][epoch]`, and `[time][task]` of what evaluation found."""
        moments, losses = Moments(), []
        measured = [self._measured()]
        for number, (step, pair) in enumerate(zip(*self._steps, strict=True), start=1):
            with self._timed("reading"):
                rows = {modality: self._tensor(self.caches[step[0]], "train", modality) for modality in pair}
                order = torch.from_numpy(self.shared[f"order_{number}"].astype(np.int64)).to(self.device)
            with self._timed("training"):
                projectors = None
                if dns and number > 1:
                    threshold = self.plan["input_threshold"]
                    projectors = {m: moments.projectors(m, self.heads[m].weight, threshold) for m in pair}
                losses.append(train_step(self.heads, rows, order, projectors, self.plan["training"]))
                if dns:
                    moments.remember(self.heads, rows)
            measured.append(self._measured())
        return {"losses": [of_step.tolist() for of_step in losses], "measured": measured, "seconds": self.seconds}

    def _identity_heads(self) -> Heads:
        heads = {}
        for modality in sorted({modality for pair in self.plan["pairs"] for modality in pair}):
            width = next(c.modalities[modality].dim for c in self.caches.values() if modality in c.modalities)
            heads[modality] = nn.Linear(width, width, device=self.device, dtype=self.dtype)
            nn.init.eye_(heads[modality].weight)
            nn.init.zeros_(heads[modality].bias)
        return heads

    def _test(self, step: Any, pair: Any) -> dict[str, Any]:
        cache = self.caches[step[0]]
        test: dict[str, Any] = {modality: self._tensor(cache, "test", modality) for modality in pair}
        if "accuracy" in step[2]:
            test["labels"] = torch.from_numpy(cache.labels("test").astype(np.int64)).to(self.device)
            test["classes"] = torch.from_numpy(np.array(cache.class_features, self.plan["dtype"])).to(self.device)
        gallery = f"gallery_{len(test[pair[0]])}"
        drawn = self.shared.get(gallery)
        test["galleries"] = None if drawn is None else torch.from_numpy(drawn.astype(np.int64)).to(self.device)
        return test

    def _tensor(self, cache: FeatureCache, split: str, modality: str) -> Tensor:
        return torch.from_numpy(np.array(cache.features(split, modality), self.plan["dtype"])).to(self.device)

    @torch.inference_mode()
    def _measured(self) -> list[dict[str, Any]]:
        """Of every task of the stream, trained or not."""
        with self._timed("evaluation"):
            return [self._task(step[2], pair, test) for step, pair, test in zip(*self._steps, self.test, strict=True)]

    def _task(self, metrics: list[str], pair: list[str], test: dict[str, Any]) -> dict[str, Any]:
        z = {modality: self.heads[modality](test[modality]) for modality in pair}
        found: dict[str, Any] = {}
        if "accuracy" in metrics:
            other = next(modality for modality in pair if modality != "text")
            found["accuracy"] = accuracy(z[other] @ self.heads["text"](test["classes"]).T, test["labels"])
        if "recall" in metrics:
            found |= retrieval(z[pair[0]] @ z[pair[1]].T, test["galleries"])
        return found

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[what] += time.perf_counter() - begin


def main() -> None:
    """The command line; `full_run` gives it, in a process of its own."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed.torch_loop", description=__doc__, allow_abbrev=False)
    parser.add_argument("--plan", type=Path, required=True, help="plan.json")
    parser.add_argument("--variant", choices=("vanilla", "dns released"), required=True, help="what to train")
    parser.add_argument("--device", default="cpu", help="of PyTorch (default: cpu)")
    parser.add_argument("--out", type=Path, required=True, help="file for the results")
    flags = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    before, begin = resident_memory(), time.perf_counter()
    found = Run(flags.plan, flags.device).finish(dns=flags.variant != "vanilla")
    found |= {"total": time.perf_counter() - begin, "peak_mb": peak_memory(), "imported_mb": before}
    if flags.device != "cpu":
        found["device_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    flags.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

"""The released mode against an independent numpy implementation of the public reference's arithmetic.

Written in the reference's layout (weights are (out, in), outputs are x W^T + b) and with gradients by hand, so that it
shares neither code nor convention with the library.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax.methods.base import Batch, active_heads, with_heads
from cmcl_jax.methods.dns_released import ReleasedDualNullSpace
from tests.streams import MODALITIES, ROWS, heads_of_one_seed, tasks, training

A, B, C, _ = MODALITIES
pytestmark = pytest.mark.usefixtures("x64")
LR, DECAY, BATCH, EPOCHS = 1e-2, 1e-3, 10, 2


class Reference:
    """Weights by modality, and the moments of features and of partner outputs, with one sample counter."""

    def __init__(self, weights: dict[str, np.ndarray], biases: dict[str, np.ndarray], thresholds: tuple[float, float]):
        self.w, self.b = {m: w.copy() for m, w in weights.items()}, {m: b.copy() for m, b in biases.items()}
        self.c_in: dict[str, np.ndarray] = {}
        self.c_out: dict[str, np.ndarray] = {}
        self.n = 0
        self.thresholds = thresholds

    def start_step(self, total: int) -> None:
        self.total, self.u, self.m, self.v = total, 0, {}, {}
        self.p_in = {m: self._projector(c, self.thresholds[0]) for m, c in self.c_in.items()}
        self.p_out = {m: self._projector(c, self.thresholds[1]) for m, c in self.c_out.items()}

    @staticmethod
    def _projector(c: np.ndarray, threshold: float) -> np.ndarray:
        u, s, _ = np.linalg.svd(c)
        return u[:, s > threshold] @ u[:, s > threshold].T

    def update(self, ma: str, mb: str, xa: np.ndarray, xb: np.ndarray) -> None:
        za, zb = xa @ self.w[ma].T + self.b[ma], xb @ self.w[mb].T + self.b[mb]
        logits = za @ zb.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        d = (p - np.eye(len(xa))) / len(xa)
        ga, gb = d @ zb, d.T @ za
        grads = {
            (ma, "w"): ga.T @ xa, (ma, "b"): ga.sum(0), (mb, "w"): gb.T @ xb, (mb, "b"): gb.sum(0),
        }  # fmt: skip
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        clip = min(1.0, 1.0 / (norm + 1e-6))
        lr = LR * (self.total - self.u) / self.total
        self.u += 1
        for (modality, leaf), g in grads.items():
            g = g * clip
            if leaf == "w" and modality in self.p_in:
                g = g - self.p_out[modality] @ g @ self.p_in[modality]
            key = (modality, leaf)
            self.m[key] = 0.9 * self.m.get(key, 0) + 0.1 * g
            self.v[key] = 0.999 * self.v.get(key, 0) + 0.001 * g**2
            parameters = self.w if leaf == "w" else self.b
            if leaf == "w":
                parameters[modality] = parameters[modality] * (1 - lr * DECAY)
            m_hat, v_hat = self.m[key] / (1 - 0.9**self.u), self.v[key] / (1 - 0.999**self.u)
            parameters[modality] = parameters[modality] - lr * m_hat / (np.sqrt(v_hat) + 1e-8)

    def end_step(self, ma: str, mb: str, xa: np.ndarray, xb: np.ndarray) -> None:
        n = self.n + len(xa)
        for modality, x, partner_outputs in ((ma, xa, xb @ self.w[mb].T), (mb, xb, xa @ self.w[ma].T)):
            for moments, rows in ((self.c_in, x), (self.c_out, partner_outputs)):
                moments[modality] = (self.n * moments.get(modality, 0) + rows.T @ rows) / n
        self.n = n


@pytest.mark.parametrize("thresholds", [(0.01, 0.0), (0.05, 0.05)], ids=["published", "two-sided"])
def test_every_update_agrees_with_the_reference_arithmetic(thresholds: tuple[float, float]) -> None:
    # Few directions above the thresholds, so that gradients stay well above the rounding that Adam would blow up; a
    # little noise in all others, so that "greater than 0" means the same to every SVD.
    stream = tasks((A, B), (B, C), (A, B), (A, C), rank=2, noise=1e-3)
    method = ReleasedDualNullSpace(
        training(direction="a_to_b", learning_rate=LR, weight_decay=DECAY, batch_size=BATCH, epochs=EPOCHS),
        project="gradients",
        rule="absolute",
        input_threshold=thresholds[0],
        output_threshold=thresholds[1],
    )
    heads = jax.tree.map(lambda leaf: leaf[0], heads_of_one_seed())
    reference = Reference(
        {m: np.asarray(heads[m]["kernel"]).T for m in heads},
        {m: np.asarray(heads[m]["bias"]) for m in heads},
        thresholds,
    )
    memory = method.init(heads, [step.modalities for step, _ in stream])
    batches = -(-ROWS // BATCH)
    for step, features in stream:
        xa, xb = (np.asarray(features.by_role[role])[:ROWS] for role in "ab")
        a, b = step.modalities
        state = method.before_step(memory, heads, step, features.rows)
        reference.start_step(EPOCHS * batches)
        for u in range(EPOCHS * batches):
            rows = np.arange(ROWS)[u % batches * BATCH :][:BATCH]  # the last one is partial
            padded = np.pad(rows, (0, BATCH - len(rows)))
            batch = Batch({role: x[padded] for role, x in features.by_role.items()}, jnp.arange(BATCH) < len(rows))
            pair = active_heads(heads, step)
            _, gradients = method.gradient(state, pair, batch)
            pair, state = method.update(state, gradients, pair)
            heads = with_heads(heads, pair, step)
            reference.update(*step.modalities, xa[rows], xb[rows])
            for modality in step.modalities:
                np.testing.assert_allclose(heads[modality]["kernel"], reference.w[modality].T, rtol=0, atol=1e-10)
            np.testing.assert_allclose(heads[a]["bias"], reference.b[a], rtol=0, atol=1e-10)
            # The B-side bias has an analytically zero gradient; Adam turns its rounding into steps: take it over.
            reference.b[b] = np.asarray(heads[b]["bias"])
        memory = method.after_step(memory, heads, step, features)
        reference.end_step(*step.modalities, xa, xb)
        for modality in step.modalities:
            np.testing.assert_allclose(memory["inputs"][modality], reference.c_in[modality], atol=1e-12)
            np.testing.assert_allclose(memory["partner_outputs"][modality], reference.c_out[modality], atol=1e-12)

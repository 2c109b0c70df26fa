"""Every field that a config can have, with the value that it has if an experiment does not say otherwise."""

from ml_collections import ConfigDict

from cmcl_jax.config import optional


def default_config() -> ConfigDict:
    """The fields shared by all experiments."""
    return ConfigDict(
        {
            "encoder": "",  # folder below cache_dir
            "cache_dir": "caches",
            "method": "vanilla",  # a key of cmcl_jax.methods.REGISTRY
            "seeds": 10,  # runs that differ in the order of their batches, trained side by side
            "first_seed": 0,
            "dtype": "float32",
            "runs_at_once": optional(int),  # seeds side by side on the device; None: on a CPU one, elsewhere all
            "stream": {
                "steps": (),  # (dataset, (modality, modality, …), (metrics of its test tasks))
                "order_seed": optional(int),  # draws another order of the steps; None: as listed
                "row_limit": optional(int),  # train on no more than so many rows a step, for a quick look
            },
            "head": {
                "hidden": (),  # widths of each head's hidden layers; (): linear heads
            },
            "training": {
                "epochs": 5,
                "batch_size": 64,
                "learning_rate": 1e-4,
                "weight_decay": 1e-3,
                "clip_norm": 1.0,
                "temperature": 1.0,
                "direction": "symmetric",  # or a_to_b
                "precision": "float32",  # of products | tensorfloat32 | bfloat16: docs/precision.md
            },
            "evaluation": {
                "split": "test",
                "credit": "diagonal",  # or any: every item with the same caption is a correct answer
                "stability": False,  # record how old alignments move, with their bounds: docs/theory.md; costs time
            },
            "dns": {
                "mode": "ours",  # or released: the reference's arithmetic (its loss is training.direction = a_to_b)
                # None below: the mode's own default
                "project": optional(str),  # updates | gradients (as published) | exact (rotated)
                "biases": optional(str),  # ours only: leafwise | stacked (one leaf) | free (as published)
                "partners": optional(str),  # ours only: fresh | pooled (a superset) | stale (as published)
                "class_texts": optional(bool),  # ours only: the texts of a step's classes are remembered, too
                "rule": optional(str),  # absolute | relative | energy | gap | noise
                "input_threshold": optional(float),
                "output_threshold": optional(float),
                "one_sided": optional(bool),  # ours only: protect all output directions
                "released_columns": optional(bool),  # released only: its wrong stored columns
            },
            "checkpoints_kept": 2,
        }
    )

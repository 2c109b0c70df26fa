"""What is measured: per-task evaluators, and in `transfer` what a stream of such measurements says.

An evaluator is a pure function that jits and vmaps, the same call for every metric:

    evaluator(scores, targets, *, key, credit) -> {name: scalar in percent}

`accuracy` and `open_accuracy` take scores `[n, n_classes]` and class indices `[n]`, `recall` takes scores `[n, n]` of
aligned items and their group ids `[n]`. Scores are an array, or the `scores.Outputs` that it is the product of, as in a
run: `scores.map_rows` looks at either block by block, `scores.matrix` has all at once. An evaluator ignores the options
that it has no use for. A metric of pairs that is new is one new file and one line here; it lands in `matrices/`. What
the summary is made of is `transfer.SUMMARY`.
"""

REGISTRY: dict[str, str] = {
    "accuracy": "cmcl_jax.metrics.classification:accuracy_metrics",
    "open_accuracy": "cmcl_jax.metrics.classification:open_accuracy_metrics",
    "recall": "cmcl_jax.metrics.retrieval:retrieval_metrics",
}

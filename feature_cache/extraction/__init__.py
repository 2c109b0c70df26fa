"""From media to a cache: items are decoded, embedded in batches, and written shard by shard."""

"""Opens media files as the raw types of `feature_cache.datasets.base`. Imports neither torch nor jax."""

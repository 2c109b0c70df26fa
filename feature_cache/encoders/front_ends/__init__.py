"""What several encoders do to a medium before a network sees it. Imports neither torch nor jax."""

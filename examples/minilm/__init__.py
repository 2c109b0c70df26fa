"""MiniLM in Flax, and what it takes to fine-tune one of its layers on features that were computed once."""

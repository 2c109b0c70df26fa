"""How fast it is: `python -m benchmarks.speed.<name>`, one module per benchmark; ../README.md says what is measured."""

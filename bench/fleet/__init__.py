"""The figures that need a fleet; ``python -m bench.fleet`` boots one for all of them."""

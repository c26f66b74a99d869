"""Venues without a network: an offline exchange, and generated files."""

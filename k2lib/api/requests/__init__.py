"""Requests: their parameters and bodies, and the queries that they become."""

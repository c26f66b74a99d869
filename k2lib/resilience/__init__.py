"""Policies without I/O: back-off, circuit breaker, failover, rate window, staleness."""

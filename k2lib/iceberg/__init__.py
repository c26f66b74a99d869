"""Iceberg: tables, the sink, offsets, deduplication, maintenance."""

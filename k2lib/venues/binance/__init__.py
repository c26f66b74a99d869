"""Binance: frames, REST replies and archive files to v2 rows, and the feed that brings them."""

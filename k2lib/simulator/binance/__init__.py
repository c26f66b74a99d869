"""A Binance look-alike without a network: invented trades, served the way Binance does."""

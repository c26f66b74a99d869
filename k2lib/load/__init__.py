"""Loading files: ASX's CSVs and Binance's archive, a report line for every file."""

"""ASX-shaped files of invented companies, with every trap of the real ones in like proportion."""

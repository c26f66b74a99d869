"""ASX-shaped files of invented companies, as irregular as the real ones."""

"""ASX files: lines to columns to v2 rows, with the companies they belong to."""

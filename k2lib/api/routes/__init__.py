"""The paths: what each answers."""

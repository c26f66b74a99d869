"""What requests ask for: their parameters and bodies, and the rows that are meant."""

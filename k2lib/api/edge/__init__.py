"""What every request passes before it is answered: who may ask, how much, and how often."""

"""What every rule is made of."""

"""The compiled simulation: state, physics of a round, and the loops that drive it."""

"""The environments: single, vector, their options, spaces and pictures."""

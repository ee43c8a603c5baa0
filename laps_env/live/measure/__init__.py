"""Measurements of real models: costs, recordings, fidelity of the replay."""

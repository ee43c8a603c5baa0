"""Learned schedulers live here; rules with fixed formulas are in `laps_env.policies`."""

if __name__ != "laps_env.agents":
    raise ImportError(f"{__name__}: expected import as laps_env.agents (twin classes otherwise)")

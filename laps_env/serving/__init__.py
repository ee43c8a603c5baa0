"""Our policies inside other serving engines.

`laps_env.serving.table` keeps the observation for any engine and ranks its requests;
`laps_env.serving.vllm` is the scheduler for vLLM that asks it.
"""

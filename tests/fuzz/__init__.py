"""A standing attack on every door through which input comes; `make fuzz` is the large one."""

"""``python -m laps_env`` is ``laps-env``."""

from laps_env.cli import main

if __name__ == "__main__":
    main()

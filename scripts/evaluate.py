"""Compare the policies on the final workloads: table, results.json, picture. See --help."""

import sys

from laps_env.__main__ import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])

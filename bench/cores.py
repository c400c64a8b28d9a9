"""Which core is whose: what is measured runs on the first, Redis and the load on the last, so that neither takes the other's time."""

import os

_CORES = sorted(os.sched_getaffinity(0))
MEASURED = ["taskset", "-c", str(_CORES[0])]
BESIDE = ["taskset", "-c", str(_CORES[-1])]

"""The compiled part of `metrics`."""

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@numba.njit(cache=True, nogil=True)
def merge(start: Floats, end: Floats, time: Floats, count: npt.NDArray[np.int64]) -> int:
    """Fill in the steps of sorted starts and ends, as `metrics.steps` has them; return how many they are."""
    i = j = size = 0
    while i < len(start) or j < len(end):
        if j < len(end) and (i == len(start) or end[j] <= start[i]):
            moment = end[j]
            j += 1
        else:
            moment = start[i]
            i += 1
        if size == 0 or time[size - 1] != moment:
            size += 1
        time[size - 1] = moment
        count[size - 1] = i - j
    return size

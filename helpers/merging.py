"""The compiled part of `metrics`."""

import numba
import numpy as np
import numpy.typing as npt

from helpers.experiment import Floats


@numba.njit(cache=True, nogil=True)
def merge(start: Floats, end: Floats, time: Floats, count: npt.NDArray[np.int64]) -> int:
    """Put the steps of sorted starts and ends at the end of time and count; return the place of the first.

    As this begins with the last, `start` may be the beginning of `time`: new memory is slow.
    """
    i, j, at = len(start) - 1, len(end) - 1, len(time)
    following = np.nan
    while i >= 0 or j >= 0:
        now = i - j
        if j < 0 or (i >= 0 and start[i] > end[j]):
            moment = start[i]
            i -= 1
        else:
            moment = end[j]
            j -= 1
        if moment != following:
            at -= 1
            time[at], count[at] = moment, now
            following = moment
    return at

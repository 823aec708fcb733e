"""Time, in whole *ticks* of one picosecond.

Whole numbers make the closed form of m decode iterations equal to the sum over tokens to the last
bit, so that events that coincide coincide exactly, in this simulator, in any other and on every
machine.
"""

from __future__ import annotations

import numpy as np

TICKS_PER_SECOND = 10**12
TICKS_PER_MS = TICKS_PER_SECOND // 1000
NEVER = np.iinfo(np.int64).max  # the tick of an event that is not due
LAST_ARRIVAL_S = 4.0e6  # later times would come near the largest tick, 9.2e6 s
LONGEST_JOB_S = 4.0e6  # all its tasks one after the other
NO_LIMIT = int(4.5e6) * TICKS_PER_SECOND

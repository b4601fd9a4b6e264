"""Which users are held out: no model learns their newest two events, so models are judged by them.

Where users are few, all of them are needed for that. Where they are many, a part is enough, and
models learn every event of the others. The part is one user in 1, 2, 4, … So whoever is held out
on a night was held out on all nights of fewer users, too: the models of many nights can be judged
by the same users.
"""

import numpy as np
import numpy.typing as npt


def one_in(users: int, at_least: int) -> int:
    """Return n, where one user in n is held out: a power of two, 1 for everybody.

    users: who can be. at_least: how many models are to be judged by; 0 is all.
    """
    return 1 << max((users // at_least).bit_length() - 1, 0) if at_least else 1


def held_out(user_hashes: npt.NDArray[np.uint64], one_in: int) -> npt.NDArray[np.bool_]:
    """Tell who is held out, bool `[n]`.

    user_hashes: of their ids, so that it depends on no other user and on no night.
    """
    chosen: npt.NDArray[np.bool_] = (user_hashes & np.uint64(one_in - 1)) == 0
    return chosen

"""Many clusters at once: each is stepped, believed and observed, in one compiled call a thread."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmsched_gym.belief.inference import update
from llmsched_gym.belief.networks import Beliefs
from llmsched_gym.cluster.simulator import DECIDE, start, step
from llmsched_gym.cluster.state import episode
from llmsched_gym.compiled import kernel
from llmsched_gym.env.observation import observation_of, observe, shown_of

LEAVE, STEP, BEGIN = 0, 1, 2  # what is done to a cluster


@intrinsic
def _take(_, counter):
    """Add one to ``counter`` (int64 [1]), whatever other threads do; returns what it was."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@kernel
def advance_many(
    states,
    templates,
    networks,
    stage_beliefs,
    job_beliefs,
    scratch,
    mode,
    wanted,
    shown,
    todo,
    stages,
    status,
    used,
    out,
    taken,
):
    """Step or begin clusters as ``todo`` says, and observe them, until none is left to take.

    Threads may share the work: they pass the same arguments but for ``scratch``.

    Parameters
    ----------
    states, stage_beliefs, job_beliefs, shown, used, out :
        as :func:`update` and :func:`observe` take them, with a leading dimension of C clusters.
    templates, networks, mode, wanted : as :func:`update` takes them; without networks no beliefs.
    scratch : working space of this thread.
    todo : int64 [C], LEAVE, STEP or BEGIN.
    stages : int64 [C], what to dispatch, see :func:`step`.
    status : int64 [C], written where something is to do.
    taken : int64 [1], how many clusters some thread has taken, zero at first.
    """
    while True:
        i: int = _take(taken)  # type: ignore[call-arg]
        if i >= len(todo):
            return
        state = episode(states, i)
        if todo[i] == STEP:
            status[i] = step(state, stages[i])
        elif todo[i] == BEGIN:
            status[i] = start(state)
        if networks is not None:
            beliefs = Beliefs(stage_beliefs[i], job_beliefs[i], scratch)
            update(state, templates, networks, beliefs, mode, wanted)
        observe(
            state,
            templates,
            stage_beliefs[i],
            job_beliefs[i],
            shown_of(shown, i),
            status[i] == DECIDE,
            used[i],
            observation_of(out, i),
        )

"""The bounds of every wait, each inside the next.

- A wait ends only when those inside it have had their time, so that the part that hangs is named, rather than one that
  waits for it.
- docs/faults.md lists every wait, and what follows its end.
"""

CALL_TIMEOUT_S = 30
"""One call of an evaluator of the speedrun, which may wait for one before it. A pair states its own."""
START_TIMEOUT_S = 300
"""An evaluator's model, and the kernels that it compiles."""
CALLS_WAITED_FOR = 10
WAIT_TIMEOUT_S = CALLS_WAITED_FOR * CALL_TIMEOUT_S
"""How long a checkpoint may wait for a credit or a buffer; of another pair, as many of its calls."""
PROCESS_GROUP_TIMEOUT_S = 600
"""Of a collective."""

LEASE_DEADLINE_S = 900
"""An attempt that sends nothing for so long is over, and its trainer ended; so is one that builds its trainer for so
long. Above every other bound (docs/faults.md lists them)."""
LEASE_POLL_S = 20
"""`lease` answers at least this often, far below the process group's timeout under which other ranks wait."""
COMMIT_PATIENCE_S = 300
"""How long a full or failing disk may hold a finished seed before its attempt counts as failed."""
TAIL_PATIENCE_S = 900
"""How long what a trained seed still waits for (validation, which has no hurry) may take."""

LEAVE_S = 30
"""How long trainers may take to end in order once there is nothing left to train."""
ANSWER_S = 300
"""How long the dispatcher may be silent. It answers within milliseconds; everybody else who waits for it ends with
the job."""

assert 2 * CALL_TIMEOUT_S < WAIT_TIMEOUT_S < PROCESS_GROUP_TIMEOUT_S < LEASE_DEADLINE_S
assert LEASE_POLL_S < PROCESS_GROUP_TIMEOUT_S

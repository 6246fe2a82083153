"""How a training process ends, for whoever started it.

0 is the end of the training, 1 an error that the output names. A process that a signal
ended shows as 128 plus its number in a shell, and as the negative number in Python.
"""

TERMINATED = (
  143  # asked to end; a checkpoint was saved. 128 + 15, as without a handler.
)
PEER_LOST = 75  # another rank is gone, or nothing moves: start all again (EX_TEMPFAIL)

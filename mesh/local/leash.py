"""Ties a program to the process that starts it: when that one dies, even by SIGKILL, so does this.

Run as `python -I -S leash.py PARENT_PID PROGRAM ARGUMENT...`. The tie has to be made between fork
and exec; doing that in the parent (`preexec_fn`) would run Python in the forked child of a process
with threads, which can deadlock. This little program costs about 20 ms instead. It imports nothing
of ours. Only Linux offers the tie; elsewhere the program simply runs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties itself to the parent and becomes the program."""
    parent, *argv = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the parent is gone")  # it died before the tie was made
    # Python ignores SIGPIPE, and exec passes that on to programs that want to die of it.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - this is what the module is for
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        sys.exit(127)  # what a shell answers


if __name__ == "__main__":
    main()

"""Problems of this machine, each told to the user in one sentence that ends in what to do.

They never cross an RPC, so they are no part of the mesh's error tree: the command line prints the
message and exits.
"""


class LocalProblem(Exception):
    """The machine does not let us go on; the message says what to do about it."""


class ToolMissing(LocalProblem):
    """A program that the mesh needs is neither installed nor obtainable."""


class DownloadFailed(LocalProblem):
    """Something has to come over the network once, and did not."""

"""The distributed kernel: what turns a process into a member of the mesh. Imports no service."""

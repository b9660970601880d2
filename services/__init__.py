"""The four services of Ringmesh; each is a process of its own and imports only `mesh`."""

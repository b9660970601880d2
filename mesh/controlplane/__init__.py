"""The control plane: Consul and deployments in, Envoy's resources and placements out.

Three layers, each ignorant of the one above: `build` says what the world should look like (pure),
`delta` says how one stream is brought there (pure), `ads` moves bytes. `placement` is a pure
function of its own, carried out by whichever control plane leads.
"""

"""What configures Envoy, the only public door.

Owns the files Envoy watches: from a `Snapshot` (addresses, keys, revoked tokens, deployments) to listener, routes,
clusters and endpoints. `Publisher` moves a running Envoy from one snapshot to the next without a lost request. Never
handles a request itself, and knows no service: whoever watches deployments and tokens hands snapshots in.
"""

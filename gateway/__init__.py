"""The only public door: what configures Envoy, and what stands behind it for everyone.

Owns the identity domain, the store of spans, the HTTP applications and Envoy's configuration. Never handles a
prediction itself, and imports no service: it speaks to them by their contracts.
"""

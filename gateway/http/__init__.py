"""The gateway's HTTP applications: the JSON API and its health endpoints. Every request reaches them through Envoy."""

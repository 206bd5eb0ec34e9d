"""The identity domain: projects, their members, and the tokens that speak for them.

Owns those records and the key that signs tokens. Emits `project.created`, `member.set`, `member.deleted`,
`token.created` and `token.revoked`. Never stores a token itself, and never decides what a role may do: that is one
table in `aios.runtime.roles`.
"""

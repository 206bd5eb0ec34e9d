"""The OpenAI API in front of deployments: their own clients work unchanged, with a token of ours for a key."""

"""What every AIOS process shares: the contract and the runtime.

Owns the generated protos (`aios.<domain>.v1`), the error catalogue, resource names, settings, and the adapters to
gRPC, NATS, S3 and SQL. Holds no domain rule, imports no service and no torch.
"""

import sys

# Where rich is installed, httpx imports a command-line program of its own, and with it rich and pygments: a fifth of
# what it takes to start a job's process, of which a preempted run pays for two before its first step.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

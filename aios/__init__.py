"""What every AIOS process shares: the contract and the runtime.

Owns the generated protos (`aios.<domain>.v1`), the error catalogue, resource names, settings, and the adapters to
gRPC, NATS, S3 and SQL. Holds no domain rule, imports no service and no torch.
"""

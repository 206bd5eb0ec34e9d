"""The scheduler's decisions: a pure function of a snapshot, a policy and the time, in production and in the simulator."""

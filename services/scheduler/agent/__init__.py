"""The node agent: runs signed assignments on one machine, holds the node's lease, pushes the output of jobs.

It knows nothing of training or serving. What it must remember lies in one directory per attempt, so that jobs outlive
its own death and the next agent takes them over.
"""

"""The files of a version as a table: where each goes, what it holds, and in which blobs its bytes lie.

A file is a blob of its own, or is put together from parts of blobs: many small files share one (a pack), and a large
file that changes a little shares most of its chunks with the file it was. Shared by those who write versions and by
the service that checks them. Knows no network.
"""

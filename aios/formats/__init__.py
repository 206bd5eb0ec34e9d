"""Other formats made into shards of records, which train fast: tables, folders of images, IDX, WebDataset.

Reads files that anybody may have made: sizes, counts and names are bounded, nothing is written outside the folder
given, and a mistake is told with its file or row. Needs no network and no platform.
"""

from aios.formats.imports import FORMATS, import_shards

__all__ = ["FORMATS", "import_shards"]

"""Other formats made into shards of records, which train fast, and shards made into them: tables, folders of images, COCO,
folders of Hugging Face `datasets`, IDX, WebDataset.

Reads files that anybody may have made: sizes, counts and names are bounded, nothing is written outside the folder
given, and a mistake is told with its file or row. Needs no platform; `remote` alone needs a network.
"""

from aios.formats.imports import EXPORTS, FORMATS, export_shards, import_shards

__all__ = ["EXPORTS", "FORMATS", "export_shards", "import_shards"]

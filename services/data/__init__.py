"""Everything with bytes and a version: datasets, checkpoints, models with their aliases, and the lineage between them.

Content is addressed by SHA-256 within a project; a manifest, written last, makes a version of it. The bucket is the
truth: blobs and manifests there never change, and the SQL index says which of them are visible. Emits `blob`,
`dataset`, `dataset_version`, `model`, `model_version` and `checkpoint` events. Keeps account of who read and changed
data, and of who was refused; takes in what devices publish. Carries no other bytes itself, and knows neither what a run does nor how a model is served.
"""

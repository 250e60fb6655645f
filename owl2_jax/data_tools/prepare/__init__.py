"""`owl2 data prepare`: sources of any kind to checked, deduplicated ArrayRecord shards, with Apache Beam.

    settings       what is kept and how images are stored
    clean          one example: checked, filtered, its images made small
    deduplication  keys by which equal and alike examples are found
    shards         files: a shard's cleaned records, its final file, the manifest
    storage        local and remote paths alike
    beam_pipeline  the Beam pipeline over all shards
    run            one run: resume, publish, report

Without Beam, all but `beam_pipeline` and `run` can be imported.
Knows sources and images, no batch and no model.
"""

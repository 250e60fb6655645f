"""What a run reads: source, record, conversation, ids, packed rows, batch.

numpy in, numpy out; knows no mesh and no model.
"""

"""Sources of examples, one file per kind of data; `registry` names them. They know no model and no batch."""

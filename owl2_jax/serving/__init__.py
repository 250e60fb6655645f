"""HTTP API and chat page; the only room that knows the web. Does not train or convert."""

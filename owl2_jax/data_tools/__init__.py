"""What is done to data before a run: prepare it, check it, build the embedded corpus. No run imports it."""

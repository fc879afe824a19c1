"""What is kept: the run queue and its history (SQLite), and immutable blobs; see store.store."""

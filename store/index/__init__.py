"""The disposable index: memos and previews, never the truth."""

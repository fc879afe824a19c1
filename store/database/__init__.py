"""The SQLite file: how it is opened, its tables as migrations, its backups."""

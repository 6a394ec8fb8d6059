"""The store on SQLite, through apsw, which bundles a current one (the standard library's has the WAL-reset bug)."""

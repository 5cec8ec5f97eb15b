"""Files of this host: atomic writes, locks, safe opens, removal, free space."""

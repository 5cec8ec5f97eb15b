"""One file over HTTP from a peer that may be slow, broken or hostile."""

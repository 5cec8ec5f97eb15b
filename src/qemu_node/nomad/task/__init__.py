"""One task: what its job asks for, its start, its log, its statistics, its exec sessions."""

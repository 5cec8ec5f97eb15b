"""Who may do what: rights, sessions, and the answers of Nomad's ACLs."""

"""QGA: the guest agent, a peer inside the guest that may be absent, slow or hostile.

Owns the conversation with it and what may be asked of it. Does not own who may ask (the job's
`guest_agent` block, Nomad's ACLs). `agent.GuestAgent` is the entry point; below it are
`agentsession` (one client's turn on the socket), `wire` (bytes to replies, pure) and
`allowedcommands` (pure).
"""

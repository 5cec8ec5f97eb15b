"""Who may do what: rights, sessions, and the answers of Nomad's ACLs.

- `guard`: judges every request that is not open
- `attachments`: what goes on for long, and ends with its session
- `tickets`: one use of a VM's screen or serial port
- `sessions`: who is logged in
- `grant`: what a request was found to be allowed
- `identity`: a token's owner and rights, asked of Nomad
- `nomadacl`: Nomad's evaluation of its policies: pure
- `audit`: who did what
- `rights`: what there is to be allowed: pure
"""

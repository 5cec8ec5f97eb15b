"""Who is logged in, and what goes on in a session.

- `websocket`: the socket of a screen or serial port, after all checks
- `attachments`: what goes on for long, and ends with its session
- `tickets`: one use of a VM's screen or serial port
- `grant`: what a request was found to be allowed
- `sessions`: who is logged in
- `pace`: how much is written down of somebody, pure
"""

"""The console's port: https, and what plain http is told there.

- `port`: accepts connections and gives them to aiohttp's server
- `plain`: a connection that does not speak TLS
- `redirect`: what it is answered: pure
- `openers`: how many may be open, and of whom: pure
- `tls`: the certificate in use, and its change
- `selfmade`: a certificate where nobody has given one
- `nodenames`: what this node is called
"""

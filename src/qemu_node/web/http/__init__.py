"""The port, and what every request and answer has to be, whoever sends it.

- `listener`: the port: TLS by its first byte, and who may open connections
- `middleware`: the checks and headers, on every request: against pages of others
- `headers`: what each answer says to a browser: pure
- `origins`: whose page it was: pure
- `problems`: an error, as a client of the API sees it
"""

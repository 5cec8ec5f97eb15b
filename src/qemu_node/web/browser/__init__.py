"""What a browser may send us, and what we tell it: against pages of others.

- `middleware`: the checks and headers, on every request
- `headers`: what each answer says: pure
- `origins`: whose page it was: pure
"""

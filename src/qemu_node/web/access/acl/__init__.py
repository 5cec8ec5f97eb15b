"""What a token of Nomad allows.

- `nomadtoken`: a token's owner and rights, asked of Nomad
- `nomadapi`: Nomad's API, asked with a user's token
- `rights`: what there is to be allowed: pure
- `nomadacl`: Nomad's evaluation of its policies: pure
"""

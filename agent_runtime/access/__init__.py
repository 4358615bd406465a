"""Who may do what over the network, and the record of what they did.

Reading order: `callers` (who asks, scopes, roles), `key_texts` and `keys` (API keys), `buckets`
(how often), `audit` (the record and its chain), `ports` (where keys and record are kept); then what
acts: `token` (the file of the local token), `jwks` and `jwts` (bearer tokens of an issuer), `gate`
(a header becomes a caller), `auditor` (writes the record in batches), `desk` (making, listing and
revoking keys). `api.guard` puts them in front of every request.

Nothing is imported here.
"""

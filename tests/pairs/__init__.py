"""Release pairs: real bugs that a newer release of a package mended, from PyPI.

`releases` makes a repository and a fix of each pair, `__main__` hands them to the runtime:
`make pairs`.
"""

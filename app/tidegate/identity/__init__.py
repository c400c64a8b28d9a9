"""Who is calling: signed tokens, the key set that they are checked against, principals and their pseudonyms.

Imports the contract, PyJWT and (in `middleware.py` alone) Falcon, and no other room. `application.py` wires it; the steps after it read
`req.context.principal`, `.tier` and `.tids`.
"""

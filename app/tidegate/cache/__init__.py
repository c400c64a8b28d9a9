"""Lanes: answers of GET routes that opt in, kept in the memory that a customer's tier has for them (RFC 9111, 9211; docs/cache.md).

Pure: `directives`, `freshness`, `entry`, `status`, `target`. `sealing` names and encrypts, `lane` speaks to a lane's Redis, `lanes` finds
the one of a tier, `single_flight` has one of many ask the handler, holding a `lease`, `reuse` serves what is kept, `handler` makes an
answer to keep, `middleware` is the step of a request. It may import the contract, a `Principal`, and what `routing.py` says of methods;
`application.py` wires it, resources take `CachePolicy`, and `commands/cache.py` asks for `Lanes`.
"""

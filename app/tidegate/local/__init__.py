"""Two regions on one machine, with no cluster: makes keys and configuration, has `supervisor` run the servers, watches and tours them.

It may import the contract and nothing else of the platform: it drives the API and the operator as the processes that they are.
`commands/` calls it.
"""

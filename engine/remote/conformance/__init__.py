"""The conformance test: whether a server speaks the contract (docs/remote.md).

It asks as a client would, and as one that means harm would: both must get the answer that the contract has for them.
"""

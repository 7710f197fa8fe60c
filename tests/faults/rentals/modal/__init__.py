"""Modal: its client over a stand-in of its SDK, whose calls go the way that the other clouds' requests go.

client.py → sdk   drives what the client hands over, within its deadline
          → module   what of the package `modal` the client uses, call by call as its own SDK makes them
          → api   those calls over the virtual service: a queue, names that are unique, an end at a time of its own
"""

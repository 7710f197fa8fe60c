"""`pushtrain demo`: the whole way on loopback, on real parts. Only the cloud and the Hub are the simulator's."""

from pushtrain.demo.main import run_demo

__all__ = ["run_demo"]

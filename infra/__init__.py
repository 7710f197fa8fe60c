"""The only room that imports pulumi: program, engines, clouds, and the simulator on loopback."""

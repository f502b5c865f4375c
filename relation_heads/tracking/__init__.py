"""Multi-object tracking with associations that know the neighbours of an object."""

"""Relational Scenes: synthetic images in which what an object is depends on others."""

"""Experiments that can be run again: recipes that return whole configs."""

from .recipes import RECIPES, recipe

__all__ = ["RECIPES", "recipe"]

"""Recipes: what the user asks for, as data; and plans: a recipe resolved against the installed plugins."""

from leptonsdk.recipe.plan import Plan, Step, make_plan
from leptonsdk.recipe.schema import Recipe

__all__ = ["Plan", "Recipe", "Step", "make_plan"]

//! Recipes as their authors meet them.

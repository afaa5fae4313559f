"""The layouts that a data set is written in."""

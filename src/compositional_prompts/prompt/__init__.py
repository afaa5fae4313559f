"""The wording of prompts: the pair, the words, the template, and how close a text comes to it."""

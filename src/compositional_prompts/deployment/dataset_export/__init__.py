"""The photos with their texts as a data set for others to use."""

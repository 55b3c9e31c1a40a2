"""From a model that continues text to one that classifies, answers and is preferred."""

"""What the hidden streams think: every stream's own prediction for a token, and how far streams drift apart by depth.

reading           the numbers, from the model's `return_streams=True`
picture           the same as a heat map, with matplotlib
"""

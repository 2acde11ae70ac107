"""Plans, lists of Runs in order of importance, and how they are worked through.

search   a grid as a plan; its table     runner   processes side by side
whole    all that notebooks show         archive  what runs left, in one file
"""

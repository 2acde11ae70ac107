"""Plans, lists of Runs in order of importance, and how they are worked through.

search     a grid as a plan; its table of results     runner    processes side by side
workspace  a folder of runs                           cluster   machines of a Ray cluster
whole      everything that a profile's notebooks show archive   what runs left, in one file
"""

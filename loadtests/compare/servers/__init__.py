"""The others, each as its own documentation recommends, in an environment of its own.

None imports anything of the product; what they do to a file stands in `models`.
"""

"""Brings keys into one agreed form, so that `Ben@X.de ` and `ben@x.de` are the same key on both sides.

Every form takes the canonical text of a value and returns another text, or null for a value that it cannot take.

    names       the forms by name, as job files hold them; imports nothing heavy
    convert     applies the forms of a task to its key columns
    columns     the key columns of an input, and the values that their forms cannot take
"""

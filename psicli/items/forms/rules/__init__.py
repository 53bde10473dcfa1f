"""Defines each key form: one function for a base, from a text to a text, or to None for a value that it cannot take.

These functions are the definition. What `quick` does for many values at once must give the same.

    text       trim, nfc, lower
    numbers    digits, integer
    emails     email, email/plain
    phones     phone
    times      date, timestamp
    codes      uuid, hashed, /sha256
    bases      the function of each form
"""

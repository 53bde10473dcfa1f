"""Which rows and columns of an input an output holds, and in which order.

content               reads the rows and columns that the settings of an output choose, and adds the flag
ordering              orders texts by their bytes
filed                 divides rows that keep the order of the input, so that the bytes depend on the rows alone
"""

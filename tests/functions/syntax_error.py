import pillion


def broken(:
    pass
